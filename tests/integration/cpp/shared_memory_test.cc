#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/parity/explicit_attention.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/soak/server_process.h"
#include "theria/client.h"

// Shared memory of the C++ client and a server process: the same values as by messages and as the
// formulas in float64, without a byte of tensors in the messages, and by messages where there is
// none any more.

namespace theria::client {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::size_t kMiB = std::size_t{1} << 20;

class SharedMemoryTest : public testing::Test {
 protected:
  SharedMemoryTest() {
    std::string pattern = std::filesystem::temp_directory_path() / "theria-shared-XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  ~SharedMemoryTest() override {
    client_.reset();
    if (server_.has_value()) {
      EXPECT_EQ(server_->Stop(), 0);
    }
    EXPECT_FALSE(std::filesystem::exists(directory_ / "memory"));
    std::filesystem::remove_all(directory_);
  }

  void StartServer(const std::vector<std::string>& flags) {
    auto server = soak::ServerProcess::Start(THERIA_SERVER_BINARY, flags);
    ASSERT_TRUE(server.ok()) << server.status();
    server_.emplace(*std::move(server));
  }

  void Start(const std::vector<std::string>& flags) {
    StartServer(flags);
    client_ =
        std::make_unique<Client>(server_->target(), ClientOptions{.timeout = absl::Seconds(60)});
  }

  void StartSharing(const std::string& max_message = "64MiB") {
    Start({absl::StrCat("--shared-memory=", (directory_ / "memory").string()),
           "--shared-memory-bytes=8MiB", absl::StrCat("--max-message-bytes=", max_message)});
  }

  Tensor Random(DType dtype, const Shape& shape) {
    std::vector<double> values(static_cast<std::size_t>(NumElements(shape)));
    for (double& value : values) value = normal_(random_);
    return Tensor::FromDoubles(dtype, values, shape);
  }

  // Inputs of a grouped-query HVP with all tangents, each [2, heads, 17, 8] but for the rows of k.
  AttentionRequest Inputs(DType dtype) {
    const auto like_q = [&] { return Random(dtype, {2, 4, 17, 8}); };
    const auto like_k = [&] { return Random(dtype, {2, 2, 19, 8}); };
    const auto like_v = [&] { return Random(dtype, {2, 2, 19, 5}); };
    const auto like_o = [&] { return Random(dtype, {2, 4, 17, 5}); };
    AttentionRequest request = {.q = like_q(),
                                .k = like_k(),
                                .v = like_v(),
                                .o_bar = like_o(),
                                .q_dot = like_q(),
                                .k_dot = like_k(),
                                .v_dot = like_v(),
                                .o_bar_dot = like_o()};
    request.options.mask = Random(dtype, {17, 19});
    return request;
  }

  // What `operation` reads of `inputs`.
  static AttentionRequest Read(Operation operation, const AttentionRequest& inputs) {
    AttentionRequest request = inputs;
    const bool has_cotangents = operation == Operation::kVjp || operation == Operation::kHvp;
    const bool has_tangents = operation == Operation::kJvp || operation == Operation::kHvp;
    if (!has_cotangents) request.o_bar = AnyTensor();
    if (!has_tangents) request.q_dot = request.k_dot = request.v_dot = AnyTensor();
    if (operation != Operation::kHvp) request.o_bar_dot = AnyTensor();
    return request;
  }

  // The same with every tensor in `region`, and outputs there.
  static AttentionRequest InRegion(const AttentionRequest& inputs, const SharedRegion& region) {
    AttentionRequest request = inputs;
    for (const InputField& field : kInputFields) {
      AnyTensor& tensor = request.*field.member;
      if (tensor.has_value()) tensor = region.Copy(tensor.local()).value();
    }
    request.options.mask = region.Copy(inputs.options.mask.local()).value();
    request.outputs.region = region;
    return request;
  }

  std::filesystem::path directory_;
  std::optional<soak::ServerProcess> server_;
  std::unique_ptr<Client> client_;
  std::mt19937 random_{7};
  std::normal_distribution<double> normal_;
};

TEST_F(SharedMemoryTest, AllCallsHaveTheValuesOfMessagesAndOfTheFormulas) {
  StartSharing();
  ASSERT_TRUE(client_->GetServerInfo()->shared_memory);
  const SharedRegion region = client_->Share(kMiB).value();
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    const AttentionRequest inputs = Inputs(dtype);
    for (const Operation operation :
         {Operation::kForward, Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
      const AttentionRequest request = Read(operation, inputs);
      const auto by_message = client_->Run(operation, request);
      const auto in_place = client_->Run(operation, InRegion(request, region));
      const auto expected = cli::ExactAttention(operation, request);
      ASSERT_TRUE(by_message.ok()) << by_message.status();
      ASSERT_TRUE(in_place.ok()) << in_place.status();
      int outputs = 0;
      for (const OutputField& field : kOutputFields) {
        const AnyTensor& output = (*in_place).*field.member;
        ASSERT_EQ(output.has_value(), ((*by_message).*field.member).has_value()) << field.name;
        if (!output.has_value()) continue;
        ++outputs;
        EXPECT_EQ(output.local().dtype(), ((*by_message).*field.member).local().dtype());
        EXPECT_EQ(output.local().shape(), ((*by_message).*field.member).local().shape());
        const std::vector<double> values = output.local().ToDoubles();
        EXPECT_EQ(values, ((*by_message).*field.member).local().ToDoubles()) << field.name;
        const std::vector<double> truth = (expected.*field.member).local().ToDoubles();
        ASSERT_EQ(values.size(), truth.size());
        const double tolerance = dtype == DType::kFloat64 ? 1e-12 : 1e-5;
        for (std::size_t i = 0; i < values.size(); ++i) {
          ASSERT_NEAR(values[i], truth[i], tolerance * (1.0 + std::abs(truth[i])))
              << OperationName(operation) << " " << field.name << " " << i;
        }
      }
      EXPECT_EQ(outputs, operation == Operation::kHvp ? 6 : operation == Operation::kVjp ? 3 : 2);
    }
  }
  // All room is back.
  EXPECT_TRUE(region.NewTensor(DType::kBool, {kMiB}).ok());
}

TEST_F(SharedMemoryTest, NoElementsTravel) {
  StartSharing("64KiB");
  const SharedRegion region = client_->Share(2 * kMiB).value();
  const Tensor q = region.Copy(Random(DType::kFloat32, {1, 2, 600, 32})).value();  // 150 KiB
  AttentionRequest request = {.q = q, .k = q, .v = q};
  EXPECT_FALSE(
      client_->Forward({.q = q.Cast(DType::kFloat32), .k = q, .v = q}).ok());  // by message
  request.outputs.region = region;
  const auto result = client_->Forward(request);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto expected = cli::ExactAttention(Operation::kForward, request);
  const std::vector<double> values = result->o.local().ToDoubles();
  const std::vector<double> truth = expected.o.local().ToDoubles();
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], truth[i], 1e-5) << i;
  // Outputs are inputs of the next call, strided views too, together with resident tensors.
  const ResidentTensor resident = client_->Put(q).value();
  const Tensor o = result->o.local().Transposed(1, 2);
  const Tensor k = q.Transposed(1, 2);
  AttentionRequest next = {.q = o, .k = k, .v = k, .outputs = {.region = region}};
  const auto chained = client_->Forward(next);
  ASSERT_TRUE(chained.ok()) << chained.status();
  const auto chained_truth = cli::ExactAttention(Operation::kForward, next);
  const std::vector<double> chained_values = chained->o.local().ToDoubles();
  const std::vector<double> chained_true = chained_truth.o.local().ToDoubles();
  ASSERT_EQ(chained_values.size(), chained_true.size());
  for (std::size_t i = 0; i < chained_values.size(); ++i) {
    ASSERT_NEAR(chained_values[i], chained_true[i], 1e-5) << i;
  }
  const auto mixed =
      client_->Forward({.q = resident, .k = q, .v = resident, .outputs = {.region = region}});
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  EXPECT_EQ(mixed->o.local().ToDoubles(), values);
}

TEST_F(SharedMemoryTest, PutAndGet) {
  StartSharing();
  const SharedRegion region = client_->Share(4 * kMiB).value();
  const Tensor tensor = Random(DType::kFloat32, {300, 1000});
  const std::vector<double> values = tensor.ToDoubles();
  const ResidentTensor resident = client_->Put(region.Copy(tensor).value()).value();
  EXPECT_EQ(client_->Get(resident)->ToDoubles(), values);
  absl::StatusOr<Tensor> fetched = client_->Get(resident, region);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(fetched->ToDoubles(), values);
  // The resident tensor is another's memory.
  fetched->mutable_values<float>()[0] = 1e9f;
  EXPECT_EQ(client_->Get(resident)->ToDoubles(), values);
  // Content addresses are of what the client sends, from wherever.
  const Tensor shared = region.Copy(tensor).value();
  const ResidentTensor addressed = client_->Put(shared, {.content_addressed = true}).value();
  EXPECT_EQ(client_->Stat(addressed)->sha256.size(), 32u);
  const Tensor filled = region.NewTensor(DType::kBool, {1500000}).value();
  EXPECT_TRUE(absl::IsResourceExhausted(client_->Get(resident, region).status()));
}

TEST_F(SharedMemoryTest, WhatIsLostCostsSpeedAlone) {
  StartSharing();
  const AttentionRequest inputs = Read(Operation::kVjp, Inputs(DType::kFloat64));
  const std::vector<double> expected = client_->Vjp(inputs)->k_bar.local().ToDoubles();
  const SharedRegion expired = client_->Share(kMiB, absl::Seconds(2)).value();
  const SharedRegion deleted = client_->Share(kMiB).value();
  const AttentionRequest in_expired = InRegion(inputs, expired);
  const AttentionRequest in_deleted = InRegion(inputs, deleted);
  EXPECT_TRUE(client_->Unshare(deleted).ok());
  absl::SleepFor(absl::Milliseconds(2500));
  for (const AttentionRequest* request : {&in_expired, &in_deleted}) {
    const auto result = client_->Vjp(*request);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->k_bar.local().ToDoubles(), expected);
  }
  const ResidentTensor resident = client_->Put(in_expired.q.local()).value();
  EXPECT_EQ(client_->Get(resident, expired)->ToDoubles(), inputs.q.local().ToDoubles());
  const absl::Status renewed = client_->Renew(expired, absl::Seconds(10)).status();
  EXPECT_THAT(DetailsOf(renewed).missing_regions, ElementsAre("name"));
  EXPECT_TRUE(absl::IsFailedPrecondition(client_->Unshare(deleted)));
}

// Whatever the first call after it is, and whether the server shares memory at another socket then,
// or not at all.
TEST_F(SharedMemoryTest, ARestartCostsSpeedAlone) {
  const std::string address = absl::StrCat("unix:", (directory_ / "rpc").string());
  const auto restart = [&](const std::string& socket) {
    if (server_.has_value()) {
      EXPECT_EQ(server_->Stop(), 0);
    }
    server_.reset();
    std::vector<std::string> flags = {absl::StrCat("--listen=", address)};
    if (!socket.empty()) {
      flags.push_back(absl::StrCat("--shared-memory=", (directory_ / socket).string()));
    }
    StartServer(flags);
  };
  client_ = std::make_unique<Client>(address, ClientOptions{.timeout = absl::Seconds(60)});
  const AttentionRequest inputs = Read(Operation::kVjp, Inputs(DType::kFloat64));
  const auto exact = cli::ExactAttention(Operation::kVjp, inputs);
  const std::vector<double> expected = exact.k_bar.local().ToDoubles();
  const std::vector<double> k = inputs.k.local().ToDoubles();
  AttentionRequest request;
  std::optional<SharedRegion> region;
  std::optional<ResidentTensor> resident;
  const auto expect_vjp = [&](const AttentionRequest& of, bool is_in_place) {
    const auto result = client_->Vjp(of);
    ASSERT_TRUE(result.ok()) << result.status();
    const std::vector<double> values = result->k_bar.local().ToDoubles();
    ASSERT_EQ(values.size(), expected.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_NEAR(values[i], expected[i], 1e-12 * (1.0 + std::abs(expected[i]))) << i;
    }
    if (is_in_place) {
      EXPECT_TRUE(of.outputs.region->is_shared());
    }
  };
  const std::vector<std::function<void()>> calls = {
      [&] { expect_vjp(request, false); },
      [&] {
        AttentionRequest mixed = request;
        mixed.k = *resident;
        expect_vjp(mixed, false);
      },
      [&] {
        const auto put = client_->Put(request.k.local());
        ASSERT_TRUE(put.ok()) << put.status();
        EXPECT_EQ(client_->Get(*put)->ToDoubles(), k);
      },
      [&] {
        const auto fetched = client_->Get(*resident, *region);
        ASSERT_TRUE(fetched.ok()) << fetched.status();
        EXPECT_EQ(fetched->ToDoubles(), k);
      },
      [&] {
        const absl::Status renewed = client_->Renew(*region, absl::Seconds(10)).status();
        EXPECT_THAT(DetailsOf(renewed).missing_regions, ElementsAre("name")) << renewed;
        EXPECT_THAT(std::string(renewed.message()), HasSubstr("Client::Share makes another"));
      }};
  restart("memory");
  for (const std::string socket : {"other", ""}) {
    for (const auto& call : calls) {
      if (!client_->GetServerInfo()->shared_memory) restart("memory");
      region = client_->Share(kMiB).value();
      request = InRegion(inputs, *region);
      resident = client_->Put(request.k.local(), {.retain_source = true}).value();
      expect_vjp(request, true);
      restart(socket);
      EXPECT_TRUE(region->is_shared());  // nobody knows yet
      call();
      EXPECT_FALSE(region->is_shared());
      expect_vjp(request, false);
      const auto fresh = client_->Share(kMiB);
      if (socket.empty()) {
        EXPECT_TRUE(absl::IsUnimplemented(fresh.status()));
        EXPECT_THAT(std::string(fresh.status().message()), HasSubstr("--shared-memory"));
      } else {
        ASSERT_TRUE(fresh.ok()) << fresh.status();
        request.q = fresh->Copy(inputs.q.local()).value();
        request.outputs.region = *fresh;
        expect_vjp(request, true);
      }
      EXPECT_TRUE(absl::IsFailedPrecondition(client_->Unshare(*region)));
    }
  }
}

TEST_F(SharedMemoryTest, RenewAndUseBeginTheLeaseAnew) {
  StartSharing();
  const SharedRegion region = client_->Share(kMiB, absl::Seconds(4)).value();
  const AttentionRequest request =
      InRegion(Read(Operation::kForward, Inputs(DType::kFloat32)), region);
  for (int i = 0; i < 5; ++i) {
    absl::SleepFor(absl::Seconds(1));
    ASSERT_TRUE(client_->Forward(request).ok());
  }
  const auto lease = client_->Renew(region, absl::Seconds(100));
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_GT(*lease, absl::Seconds(90));
  EXPECT_LE(*lease, absl::Seconds(100));
}

TEST_F(SharedMemoryTest, CapacityIsBoundedAndComesBack) {
  StartSharing();
  const SharedRegion region = client_->Share(8 * kMiB).value();
  EXPECT_TRUE(absl::IsResourceExhausted(client_->Share(1).status()));
  EXPECT_TRUE(client_->Unshare(region).ok());
  EXPECT_TRUE(client_->Share(kMiB).ok());
  for (const std::size_t size : {std::size_t{0}, 9 * kMiB, ~std::size_t{0}}) {
    const absl::Status status = client_->Share(size).status();
    ASSERT_EQ(DetailsOf(status).field_violations.size(), 1u) << status;
    EXPECT_EQ(DetailsOf(status).field_violations[0].field, "size_bytes");
  }
}

TEST_F(SharedMemoryTest, ErrorsNameTheField) {
  StartSharing();
  const SharedRegion region = client_->Share(kMiB).value();
  AttentionRequest request = InRegion(Read(Operation::kForward, Inputs(DType::kFloat32)), region);
  request.k = region.NewTensor(DType::kFloat32, {2, 2, 19, 9}).value();
  const absl::Status status = client_->Forward(request).status();
  ASSERT_EQ(DetailsOf(status).field_violations.size(), 1u) << status;
  EXPECT_EQ(DetailsOf(status).field_violations[0].field, "k.shape[3]");
}

TEST_F(SharedMemoryTest, ManyThreadsShareOneRegion) {
  StartSharing();
  const SharedRegion region = client_->Share(4 * kMiB).value();
  const AttentionRequest inputs = Inputs(DType::kFloat64);
  const std::vector<double> expected = client_->Hvp(inputs)->q_bar_dot.local().ToDoubles();
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i) {
        const auto result = client_->Hvp(InRegion(inputs, region));
        ASSERT_TRUE(result.ok()) << result.status();
        ASSERT_EQ(result->q_bar_dot.local().ToDoubles(), expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(region.NewTensor(DType::kBool, {4 * kMiB}).ok());
}

TEST_F(SharedMemoryTest, AServerThatSharesNothingSaysSo) {
  Start({});
  EXPECT_FALSE(client_->GetServerInfo()->shared_memory);
  EXPECT_TRUE(absl::IsUnimplemented(client_->Share(kMiB).status()));
}

}  // namespace
}  // namespace theria::client
