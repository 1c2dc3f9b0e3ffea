#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/inline_payloads.h"
#include "tests/unit/server/rpc/error_details.h"
#include "tests/unit/server/rpc/fake_device_backend.h"
#include "tests/unit/server/rpc/server_fixture.h"

// The services in front of memory that the host cannot access.

namespace theria::server {
namespace {

using testing::HasSubstr;

v1::Tensor Random(std::initializer_list<std::int64_t> shape, std::uint32_t seed) {
  v1::Tensor tensor = MakeTensor(shape);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::string& data = *tensor.mutable_data();
  for (std::size_t at = 0; at < data.size(); at += sizeof(float)) {
    const float value = normal(random);
    std::memcpy(data.data() + at, &value, sizeof(float));
  }
  return tensor;
}

v1::HvpRequest RandomHvp() {
  v1::HvpRequest request;
  *request.mutable_q() = Random({2, 4, 7, 8}, 1);
  *request.mutable_k() = Random({2, 2, 9, 8}, 2);
  *request.mutable_v() = Random({2, 2, 9, 6}, 3);
  *request.mutable_o_bar() = Random({2, 4, 7, 6}, 4);
  *request.mutable_q_dot() = Random({2, 4, 7, 8}, 5);
  *request.mutable_k_dot() = Random({2, 2, 9, 8}, 6);
  *request.mutable_v_dot() = Random({2, 2, 9, 6}, 7);
  *request.mutable_o_bar_dot() = Random({2, 4, 7, 6}, 8);
  *request.mutable_options()->mutable_mask() = Random({7, 9}, 9);
  return request;
}

// The CPU reference behind the services, over memory of the host.
class HostBackend final : public Backend {
 public:
  std::string_view name() const override { return cpu_->name(); }
  std::vector<DeviceInfo> Devices() const override { return cpu_->Devices(); }
  std::vector<KernelSupport> Kernels() const override { return cpu_->Kernels(); }
  Memory& memory() override { return cpu_->memory(); }
  absl::Status Supports(const AttentionProblem& problem,
                        const AttentionOptions& options) const override {
    return cpu_->Supports(problem, options);
  }
  absl::StatusOr<ComputeReport> Run(const AttentionProblem& problem, const AttentionInputs& inputs,
                                    const AttentionOutputs& outputs,
                                    const Interrupt& interrupt) override {
    return cpu_->Run(problem, inputs, outputs, interrupt);
  }

 private:
  const std::unique_ptr<Backend> cpu_ = MakeCpuBackend({.threads = 1});
};

// The server of a host, to compare with.
class HostServer final : public BasicServerFixture<HostBackend> {
 public:
  HostServer() { SetUp(); }
  ~HostServer() override { TearDown(); }
  v1::AttentionService::Stub& attention() { return *attention_; }

 private:
  void TestBody() override {}
};

class DeviceCallTest : public BasicServerFixture<FakeDeviceBackend> {
 protected:
  std::string Put(const v1::Tensor& tensor) {
    std::vector<std::int64_t> shape(tensor.shape().begin(), tensor.shape().end());
    auto pending = store_.Create({}, {DType::kFloat32, shape});
    EXPECT_TRUE(pending.ok()) << pending.status();
    EXPECT_TRUE(backend_.memory()
                    .CopyFromHost(pending->data(), tensor.data().data(), tensor.data().size())
                    .ok());
    return (*std::move(pending)).Commit().handle;
  }

  std::string BytesOf(const std::string& handle) {
    const auto lease = store_.Acquire({}, handle);
    EXPECT_TRUE(lease.ok()) << lease.status();
    if (!lease.ok()) return "";
    std::string bytes(lease->spec().SizeBytes(), '\0');
    EXPECT_TRUE(backend_.memory().CopyToHost(bytes.data(), lease->data(), bytes.size()).ok());
    return bytes;
  }

  static void Resident(v1::Tensor& tensor, const std::string& handle) {
    tensor.Clear();
    tensor.set_handle(handle);
  }

  v1::HvpResponse Hvp(v1::AttentionService::Stub& stub, const v1::HvpRequest& request) {
    v1::HvpResponse response;
    grpc::ClientContext context;
    const grpc::Status status = stub.Hvp(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    response.clear_execution();
    return response;
  }
};

TEST_F(DeviceCallTest, InlineTensorsTravelThereAndBack) {
  HostServer host;
  const v1::HvpRequest request = RandomHvp();
  const v1::HvpResponse expected = Hvp(host.attention(), request);
  ASSERT_FALSE(expected.q_bar_dot().data().empty());
  const v1::HvpResponse actual = Hvp(*attention_, request);
  EXPECT_EQ(actual.SerializeAsString(), expected.SerializeAsString());
  EXPECT_EQ(backend_.device().live_bytes, 0u);
}

// Payloads that come in pieces, on the device and on the host, against the same tensors resident.
TEST_F(DeviceCallTest, LargeInlineTensorsTravelThereAndBack) {
  HostServer host;
  v1::HvpRequest request;
  *request.mutable_q() = Random({1, 1, 264, 64}, 1);
  *request.mutable_k() = Random({1, 1, 64, 64}, 2);
  *request.mutable_v() = Random({1, 1, 64, 64}, 3);
  *request.mutable_o_bar() = Random({1, 1, 264, 64}, 4);
  *request.mutable_v_dot() = Random({1, 1, 64, 64}, 5);
  *request.mutable_options()->mutable_mask() = Random({264, 64}, 6);
  ASSERT_GT(request.q().data().size(), kMinPayloadBytes);
  const v1::HvpResponse on_device = Hvp(*attention_, request);
  const v1::HvpResponse on_host = Hvp(host.attention(), request);
  for (v1::Tensor* tensor :
       {request.mutable_q(), request.mutable_k(), request.mutable_v(), request.mutable_o_bar(),
        request.mutable_v_dot(), request.mutable_options()->mutable_mask()}) {
    Resident(*tensor, Put(*tensor));
  }
  const std::string expected = Hvp(*attention_, request).SerializeAsString();
  EXPECT_TRUE(on_device.SerializeAsString() == expected);
  EXPECT_TRUE(on_host.SerializeAsString() == expected);
}

TEST_F(DeviceCallTest, StridesAndResidentTensorsMix) {
  HostServer host;
  v1::HvpRequest request = RandomHvp();
  // One key for all: a single element row, repeated by strides of 0.
  *request.mutable_k_dot() = Random({2, 2, 1, 8}, 11);
  request.mutable_k_dot()->set_shape(2, 9);
  for (const std::int64_t stride : {16, 8, 0, 1}) request.mutable_k_dot()->add_strides(stride);
  const v1::HvpResponse expected = Hvp(host.attention(), request);
  const std::string k = Put(request.k());
  Resident(*request.mutable_k(), k);
  Resident(*request.mutable_options()->mutable_mask(), Put(request.options().mask()));
  const v1::HvpResponse actual = Hvp(*attention_, request);
  EXPECT_EQ(actual.SerializeAsString(), expected.SerializeAsString());
  EXPECT_EQ(backend_.last_inputs.k->data, store_.Acquire({}, k)->data());  // not a copy of it
}

TEST_F(DeviceCallTest, ResidentOutputsStayThereAndServeTheNextCall) {
  HostServer host;
  const v1::HvpRequest all = RandomHvp();
  v1::ForwardRequest forward;
  *forward.mutable_q() = all.q();
  *forward.mutable_k() = all.k();
  *forward.mutable_v() = all.v();
  v1::ForwardResponse inline_response;
  grpc::ClientContext inline_context;
  ASSERT_TRUE(host.attention().Forward(&inline_context, forward, &inline_response).ok());

  forward.mutable_outputs()->set_o(v1::RESIDENT);
  forward.mutable_outputs()->set_lse(v1::RESIDENT);
  v1::ForwardResponse response;
  ASSERT_TRUE(Forward(forward, &response).ok());
  EXPECT_EQ(BytesOf(response.o().handle()), inline_response.o().data());
  EXPECT_EQ(BytesOf(response.lse().handle()), inline_response.lse().data());

  v1::VjpRequest vjp;
  *vjp.mutable_q() = all.q();
  *vjp.mutable_k() = all.k();
  *vjp.mutable_v() = all.v();
  *vjp.mutable_o_bar() = all.o_bar();
  *vjp.mutable_o() = inline_response.o();
  *vjp.mutable_lse() = inline_response.lse();
  v1::VjpResponse expected;
  grpc::ClientContext host_context;
  ASSERT_TRUE(host.attention().Vjp(&host_context, vjp, &expected).ok());
  Resident(*vjp.mutable_o(), response.o().handle());
  Resident(*vjp.mutable_lse(), response.lse().handle());
  v1::VjpResponse actual;
  grpc::ClientContext context;
  ASSERT_TRUE(attention_->Vjp(&context, vjp, &actual).ok());
  EXPECT_EQ(actual.q_bar().data(), expected.q_bar().data());
  EXPECT_EQ(actual.k_bar().data(), expected.k_bar().data());
  EXPECT_EQ(actual.v_bar().data(), expected.v_bar().data());
  EXPECT_EQ(backend_.last_inputs.o->data, store_.Acquire({}, response.o().handle())->data());
  EXPECT_EQ(backend_.last_inputs.lse->data, store_.Acquire({}, response.lse().handle())->data());
}

TEST_F(DeviceCallTest, SpilledInputsComeBack) {
  HostServer host;
  v1::HvpRequest request = RandomHvp();
  const v1::HvpResponse expected = Hvp(host.attention(), request);
  const std::string q = Put(request.q());
  Resident(*request.mutable_q(), q);
  ASSERT_GT(store_.Relieve({}, 1), 0u);
  ASSERT_EQ(store_.Stat({}, q)->device, "host");
  EXPECT_EQ(Hvp(*attention_, request).SerializeAsString(), expected.SerializeAsString());
  EXPECT_EQ(store_.Stat({}, q)->device, "fake:0");
}

TEST_F(DeviceCallTest, AFullDeviceSpillsForInputsOutputsAndWorkspace) {
  HostServer host;
  const v1::HvpRequest request = RandomHvp();
  const v1::HvpResponse expected = Hvp(host.attention(), request);
  std::vector<std::string> handles;
  for (std::uint32_t i = 0; i < 8; ++i) handles.push_back(Put(Random({1, 1, 64, 64}, i)));
  const std::size_t held_bytes = backend_.device().live_bytes;
  backend_.device().limit_bytes = held_bytes + 1000;
  backend_.workspace_bytes = held_bytes / 2;
  EXPECT_EQ(Hvp(*attention_, request).SerializeAsString(), expected.SerializeAsString());
  EXPECT_GT(store_.stats().spills, 0u);
  EXPECT_EQ(store_.stats().entries, handles.size());
  for (std::uint32_t i = 0; i < 8; ++i) {
    EXPECT_EQ(BytesOf(handles[i]), Random({1, 1, 64, 64}, i).data()) << i;
  }
}

TEST_F(DeviceCallTest, ADeviceThatStaysFullIsExhaustionAndServesOn) {
  const std::string idle = Put(Random({1, 1, 64, 64}, 1));
  backend_.workspace_bytes = std::size_t{1} << 40;
  backend_.device().limit_bytes = std::size_t{1} << 30;
  v1::HvpResponse response;
  grpc::ClientContext context;
  const grpc::Status status = attention_->Hvp(&context, RandomHvp(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(status).has_value());
  EXPECT_EQ(store_.stats().spills, 1u);  // it was tried
  backend_.workspace_bytes = 1;
  Hvp(*attention_, RandomHvp());
  EXPECT_EQ(BytesOf(idle), Random({1, 1, 64, 64}, 1).data());
}

TEST_F(DeviceCallTest, AFailedCopyIsInternalAndLeavesNothing) {
  v1::HvpRequest request = RandomHvp();
  request.mutable_outputs()->set_q_bar(v1::RESIDENT);
  backend_.device().copies_fail = true;
  v1::HvpResponse response;
  grpc::ClientContext context;
  EXPECT_EQ(attention_->Hvp(&context, request, &response).error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(backend_.device().live_bytes, 0u);
  EXPECT_EQ(store_.stats().entries, 0u);
}

TEST_F(DeviceCallTest, UploadsAndDownloadsPassThrough) {
  const v1::Tensor tensor = Random({3, 5, 7, 11}, 21);
  v1::UploadResponse uploaded;
  grpc::ClientContext upload_context;
  const auto writer = tensors_->Upload(&upload_context, &uploaded);
  v1::UploadRequest header;
  header.mutable_header()->set_dtype(v1::FLOAT32);
  header.mutable_header()->mutable_shape()->CopyFrom(tensor.shape());
  ASSERT_TRUE(writer->Write(header));
  for (std::size_t at = 0; at < tensor.data().size(); at += 1000) {
    v1::UploadRequest chunk;
    chunk.set_chunk(tensor.data().substr(at, 1000));
    ASSERT_TRUE(writer->Write(chunk));
  }
  writer->WritesDone();
  ASSERT_TRUE(writer->Finish().ok());
  ASSERT_GT(store_.Relieve({}, 1), 0u);  // it comes back for the download

  v1::DownloadRequest request;
  request.set_handle(uploaded.info().handle());
  grpc::ClientContext context;
  const auto reader = tensors_->Download(&context, request);
  std::string bytes;
  for (v1::DownloadResponse response; reader->Read(&response);) bytes += response.chunk();
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, tensor.data());
}

TEST_F(DeviceCallTest, BenchmarksRunThereWithAMaskOfTheRequest) {
  v1::RunBenchmarkRequest request;
  request.set_operation(v1::HVP);
  request.set_dtype(v1::FLOAT32);
  request.set_batch(1);
  request.set_heads_q(2);
  request.set_seq_q(9);
  request.set_head_dim(8);
  request.set_repetitions(2);
  *request.mutable_options()->mutable_mask() = Random({9, 9}, 1);
  v1::RunBenchmarkResponse response;
  grpc::ClientContext context;
  const grpc::Status status = info_->RunBenchmark(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.seconds_size(), 2);
  EXPECT_THAT(registry_.Text(), HasSubstr("theria_benchmark_seconds{"));
  // The call answers a little before it is gone.
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (backend_.device().live_bytes > 0 && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(backend_.device().live_bytes, 0u);
}

}  // namespace
}  // namespace theria::server
