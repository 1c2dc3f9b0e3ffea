#include "client/cpp/src/grpc_connection.h"

#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "client/cpp/src/attention_codec.h"
#include "client/cpp/src/message_codec.h"
#include "gmock/gmock.h"
#include "grpc/grpc.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "theria/v1/attention.grpc.pb.h"

// A GrpcConnection to a server in the same process, which answers each call as the test says.

namespace theria::client {
namespace {

using testing::ElementsAre;

const grpc::Status kUnavailable(grpc::StatusCode::UNAVAILABLE, "down");

// Plays one answer after the other.
template <typename... Arguments>
class Script {
 public:
  using Answer = std::function<grpc::Status(Arguments...)>;

  void Add(Answer answer) {
    absl::MutexLock lock(&mutex_);
    answers_.push_back(std::move(answer));
  }

  grpc::Status Play(Arguments... arguments) {
    Answer answer;
    {
      absl::MutexLock lock(&mutex_);
      if (played_ == answers_.size()) return {grpc::StatusCode::INTERNAL, "one call too many"};
      answer = answers_[played_++];
    }
    return answer(arguments...);
  }

  bool all_played() const {
    absl::MutexLock lock(&mutex_);
    return played_ == answers_.size();
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<Answer> answers_;
  std::size_t played_ = 0;
};

using Forwards = Script<grpc::ServerContext*, const v1::ForwardRequest*, v1::ForwardResponse*>;
using Uploads =
    Script<grpc::ServerContext*, grpc::ServerReader<v1::UploadRequest>*, v1::UploadResponse*>;
using Downloads = Script<grpc::ServerWriter<v1::DownloadResponse>*>;

class FakeAttention : public v1::AttentionService::Service {
 public:
  grpc::Status Forward(grpc::ServerContext* context, const v1::ForwardRequest* request,
                       v1::ForwardResponse* response) override {
    return forwards.Play(context, request, response);
  }
  grpc::Status Vjp(grpc::ServerContext*, const v1::VjpRequest* request,
                   v1::VjpResponse* response) override {
    *response->mutable_q_bar() = request->q();
    return grpc::Status::OK;
  }
  grpc::Status Jvp(grpc::ServerContext*, const v1::JvpRequest* request,
                   v1::JvpResponse* response) override {
    *response->mutable_o_dot() = request->q_dot();
    return grpc::Status::OK;
  }
  grpc::Status Hvp(grpc::ServerContext*, const v1::HvpRequest* request,
                   v1::HvpResponse* response) override {
    *response->mutable_q_bar_dot() = request->o_bar_dot();
    return grpc::Status::OK;
  }

  Forwards forwards;
};

class FakeTensors : public v1::TensorService::Service {
 public:
  grpc::Status Upload(grpc::ServerContext* context, grpc::ServerReader<v1::UploadRequest>* reader,
                      v1::UploadResponse* response) override {
    return uploads.Play(context, reader, response);
  }
  grpc::Status Download(grpc::ServerContext*, const v1::DownloadRequest*,
                        grpc::ServerWriter<v1::DownloadResponse>* writer) override {
    return downloads.Play(writer);
  }

  Uploads uploads;
  Downloads downloads;
};

class GrpcConnectionTest : public testing::Test {
 protected:
  // Between tests the library stays: its end waits up to ten seconds for a poller of its own.
  static void SetUpTestSuite() { grpc_init(); }

  GrpcConnectionTest() {
    const std::string address =
        "unix:" + testing::TempDir() + "/theria_grpc_connection_test_" + std::to_string(getpid());
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.SetMaxReceiveMessageSize(-1);
    builder.RegisterService(&attention_);
    builder.RegisterService(&tensors_);
    server_ = builder.BuildAndStart();
    connection_ =
        std::make_unique<GrpcConnection>(Connect(address, {}), RetryPolicy{.max_attempts = 3},
                                         RetryClock{.sleep = [this](absl::Duration) { ++waits_; }});
  }

  ~GrpcConnectionTest() override {
    EXPECT_TRUE(attention_.forwards.all_played());
    EXPECT_TRUE(tensors_.uploads.all_played());
    EXPECT_TRUE(tensors_.downloads.all_played());
    connection_.reset();
    server_->Shutdown();
  }

  FakeAttention attention_;
  FakeTensors tensors_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<GrpcConnection> connection_;
  int waits_ = 0;
  CallContext call_;
};

TEST_F(GrpcConnectionTest, RepeatsWhileUnavailable) {
  for (const grpc::Status& status : {kUnavailable, kUnavailable, grpc::Status::OK}) {
    attention_.forwards.Add([=](auto&&...) { return status; });
  }
  v1::ForwardResponse response;
  EXPECT_TRUE(connection_->Forward({}, &response, call_).ok());
  EXPECT_EQ(waits_, 2);
  EXPECT_GT(call_.rpc_time, absl::ZeroDuration());
}

TEST_F(GrpcConnectionTest, ResourceExhaustionIsTheCallersToRetry) {
  attention_.forwards.Add(
      [](auto&&...) { return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full"); });
  v1::ForwardResponse response;
  EXPECT_EQ(connection_->Forward({}, &response, call_), absl::ResourceExhaustedError("full"));
  EXPECT_EQ(waits_, 0);
}

TEST_F(GrpcConnectionTest, EveryAttemptHasTheCallsDeadline) {
  call_.deadline = absl::Now() + absl::Hours(1);
  const auto expected = absl::ToChronoTime(call_.deadline);
  for (int i = 0; i < 3; ++i) {
    attention_.forwards.Add([=](grpc::ServerContext* context, auto&&...) {
      // gRPC counts by another clock.
      EXPECT_LT(std::chrono::abs(context->deadline() - expected), std::chrono::minutes(1));
      return kUnavailable;
    });
  }
  v1::ForwardResponse response;
  EXPECT_TRUE(absl::IsUnavailable(connection_->Forward({}, &response, call_)));
}

TEST_F(GrpcConnectionTest, EachOperationCallsItsOwnMethod) {
  v1::VjpRequest vjp;
  vjp.mutable_q()->set_handle("q");
  v1::VjpResponse vjp_response;
  ASSERT_TRUE(connection_->Vjp(vjp, &vjp_response, call_).ok());
  EXPECT_EQ(vjp_response.q_bar().handle(), "q");
  v1::JvpRequest jvp;
  jvp.mutable_q_dot()->set_handle("q_dot");
  v1::JvpResponse jvp_response;
  ASSERT_TRUE(connection_->Jvp(jvp, &jvp_response, call_).ok());
  EXPECT_EQ(jvp_response.o_dot().handle(), "q_dot");
  v1::HvpRequest hvp;
  hvp.mutable_o_bar_dot()->set_handle("o_bar_dot");
  v1::HvpResponse hvp_response;
  ASSERT_TRUE(connection_->Hvp(hvp, &hvp_response, call_).ok());
  EXPECT_EQ(hvp_response.q_bar_dot().handle(), "o_bar_dot");
}

// The elements 0, 1, 2, ...
Tensor Counting(const Shape& shape) {
  std::vector<float> values(static_cast<std::size_t>(NumElements(shape)));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  return Tensor::FromValues(values, shape);
}

// Whatever way its elements take, and however often it is sent, the server sees one and the same
// message.
TEST_F(GrpcConnectionTest, ElementsArriveInTheirFields) {
  const Tensor large = Counting({2, 64, 64, 8});
  AttentionRequest request;
  request.q = large.Transposed(1, 2);
  request.k = Tensor::Borrow(static_cast<const float*>(large.data()), large.shape());
  request.v = Counting({1, 1, 2, 3});
  request.options.mask = Counting({100, 100});
  request.options.scale = 0.5;

  v1::ForwardRequest message;
  ASSERT_TRUE(EncodeRequest(request, SharedRegions(), &message, &call_.payloads).ok());
  EXPECT_EQ(call_.payloads.size(), 3u);  // all but v
  v1::ForwardRequest expected;
  EncodeTensor(request.q, expected.mutable_q());
  EncodeTensor(request.k, expected.mutable_k());
  EncodeTensor(request.v, expected.mutable_v());
  EncodeOptions(request.options, expected.mutable_options());
  EncodeTensor(request.options.mask, expected.mutable_options()->mutable_mask());
  const std::string bytes = expected.SerializeAsString();
  for (const grpc::Status& status : {kUnavailable, grpc::Status::OK}) {
    attention_.forwards.Add([=](auto&&, const v1::ForwardRequest* received, auto&& response) {
      EXPECT_EQ(received->SerializeAsString(), bytes);
      *response->mutable_o() = received->q();
      return status;
    });
  }
  v1::ForwardResponse response;
  ASSERT_TRUE(connection_->Forward(message, &response, call_).ok());
  EXPECT_EQ(response.o().SerializeAsString(), expected.q().SerializeAsString());
}

// What came of an upload.
struct Received {
  // ThreadSanitizer does not see that an answer comes after its request.
  mutable std::mutex mutex;
  std::vector<v1::UploadRequest> messages;
  bool complete = false;

  Uploads::Answer Record(int count, const grpc::Status& status) {
    return [=, this](auto&&, grpc::ServerReader<v1::UploadRequest>* reader,
                     v1::UploadResponse* response) {
      v1::UploadRequest message;
      const std::lock_guard lock(mutex);
      complete = true;
      while (reader->Read(&message)) {
        messages.push_back(message);
        if (static_cast<int>(messages.size()) == count) {
          complete = false;
          break;
        }
      }
      response->mutable_info()->set_handle("h");
      response->set_already_resident(!complete);
      return status;
    };
  }

  std::string bytes() const {
    const std::lock_guard lock(mutex);
    std::string bytes;
    for (const v1::UploadRequest& message : messages) bytes += message.chunk();
    return bytes;
  }
};

std::string BytesOf(const Tensor& tensor) {
  return {static_cast<const char*>(tensor.data()), tensor.size_bytes()};
}

TEST_F(GrpcConnectionTest, UploadSendsHeaderThenChunks) {
  const Tensor owned = Counting({(5 << 20) / 8});  // two and a half MiB
  const Tensor borrowed = Tensor::Borrow(DType::kFloat32, owned.data(), owned.shape());
  v1::UploadHeader header;
  header.set_dtype(v1::BFLOAT16);
  for (const Tensor& tensor : {owned, borrowed}) {
    Received received;
    tensors_.uploads.Add(received.Record(100, grpc::Status::OK));
    v1::UploadResponse response;
    ASSERT_TRUE(connection_->Upload(header, tensor, &response, call_).ok());
    EXPECT_EQ(response.info().handle(), "h");
    EXPECT_TRUE(received.complete);
    ASSERT_EQ(received.messages.size(), 4u);
    EXPECT_EQ(received.messages[0].header().dtype(), v1::BFLOAT16);
    EXPECT_EQ(received.bytes(), BytesOf(owned));
  }
}

TEST_F(GrpcConnectionTest, UploadOfSharedMemoryIsTheHeaderAlone) {
  Received received;
  tensors_.uploads.Add(received.Record(100, grpc::Status::OK));
  v1::UploadHeader header;
  header.mutable_shared_memory()->set_region("r");
  v1::UploadResponse response;
  ASSERT_TRUE(connection_->Upload(header, Counting({4}), &response, call_).ok());
  ASSERT_EQ(received.messages.size(), 1u);
  EXPECT_EQ(received.messages[0].header().shared_memory().region(), "r");
  EXPECT_TRUE(received.complete);
}

TEST_F(GrpcConnectionTest, UploadStopsWhenTheServerHasHeardEnough) {
  Received received;
  tensors_.uploads.Add(received.Record(1, grpc::Status::OK));
  v1::UploadResponse response;
  const Tensor tensor = Tensor::Zeros(DType::kFloat32, {4 << 20});
  EXPECT_TRUE(connection_->Upload({}, tensor, &response, call_).ok());
  EXPECT_TRUE(response.already_resident());
  EXPECT_FALSE(received.complete);
}

TEST_F(GrpcConnectionTest, UploadStartsAnewWhenUnavailable) {
  Received first;
  Received second;
  tensors_.uploads.Add(first.Record(2, kUnavailable));
  tensors_.uploads.Add(second.Record(100, grpc::Status::OK));
  v1::UploadResponse response;
  const Tensor tensor = Counting({1 << 20});
  EXPECT_TRUE(connection_->Upload({}, tensor, &response, call_).ok());
  EXPECT_EQ(second.messages.size(), 5u);
  EXPECT_EQ(second.bytes(), BytesOf(tensor));
}

// The server takes what its windows hold and no more. Whatever gRPC still has of the elements then,
// the caller may free them.
TEST_F(GrpcConnectionTest, TheDeadlineEndsAnUploadThatNobodyReads) {
  for (const bool owns : {true, false}) {
    tensors_.uploads.Add([](grpc::ServerContext* context, auto&&...) {
      while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
      return grpc::Status::CANCELLED;
    });
    auto values = std::make_unique<std::vector<float>>(4 << 20, 1.0f);
    const Shape shape = {4 << 20};
    Tensor tensor =
        owns ? Tensor::FromValues(*values, shape) : Tensor::Borrow(values->data(), shape);
    v1::UploadResponse response;
    call_.deadline = absl::Now() + absl::Seconds(1);
    const absl::Status status = connection_->Upload({}, tensor, &response, call_);
    tensor = Tensor();
    values.reset();
    EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    EXPECT_LT(absl::Now() - call_.deadline, absl::Seconds(5));
  }
}

TEST_F(GrpcConnectionTest, UploadsReportWhatTheServerSays) {
  tensors_.uploads.Add(
      [](auto&&...) { return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no"); });
  v1::UploadResponse response;
  EXPECT_EQ(connection_->Upload({}, Counting({4}), &response, call_),
            absl::InvalidArgumentError("no"));
}

class DownloadTest : public GrpcConnectionTest {
 protected:
  // Sends these chunks; the first message tells of two float32 elements.
  static Downloads::Answer Send(std::vector<std::string> chunks,
                                const grpc::Status& status = grpc::Status::OK) {
    return [=](grpc::ServerWriter<v1::DownloadResponse>* writer) {
      v1::DownloadResponse response;
      response.mutable_info()->set_dtype(v1::FLOAT32);
      response.mutable_info()->add_shape(2);
      for (const std::string& chunk : chunks) {
        response.set_chunk(chunk);
        writer->Write(response);
        response.clear_info();
      }
      return status;
    };
  }

  // The bytes of {1.0f, 2.0f}.
  const std::string bytes_ = std::string("\0\0\x80\x3f\0\0\0\x40", 8);
};

TEST_F(DownloadTest, JoinsChunks) {
  tensors_.downloads.Add(Send({bytes_.substr(0, 5), bytes_.substr(5)}));
  const absl::StatusOr<Tensor> tensor = connection_->Download("h", call_);
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_THAT(tensor->values<float>(), ElementsAre(1.0f, 2.0f));
}

TEST_F(DownloadTest, JoinsThePiecesOfLargeChunks) {
  const Tensor expected = Counting({3 << 20});
  tensors_.downloads.Add([](grpc::ServerWriter<v1::DownloadResponse>* writer) {
    v1::DownloadResponse response;
    response.mutable_info()->set_dtype(v1::FLOAT32);
    response.mutable_info()->add_shape(3 << 20);
    response.set_chunk(BytesOf(Counting({3 << 20})));
    writer->Write(response);
    return grpc::Status::OK;
  });
  const absl::StatusOr<Tensor> tensor = connection_->Download("h", call_);
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_EQ(BytesOf(*tensor), BytesOf(expected));
}

TEST_F(DownloadTest, StartsAnewWhenUnavailable) {
  tensors_.downloads.Add(Send({bytes_.substr(0, 5)}, kUnavailable));
  tensors_.downloads.Add(Send({bytes_}));
  const absl::StatusOr<Tensor> tensor = connection_->Download("h", call_);
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_THAT(tensor->values<float>(), ElementsAre(1.0f, 2.0f));
}

TEST_F(DownloadTest, ReportsWhatTheServerSays) {
  tensors_.downloads.Add(Send({}, {grpc::StatusCode::FAILED_PRECONDITION, "gone"}));
  EXPECT_EQ(connection_->Download("h", call_).status(), absl::FailedPreconditionError("gone"));
}

TEST_F(DownloadTest, BrokenStreamsAreInternalErrors) {
  tensors_.downloads.Add(Send({bytes_ + "x"}));
  tensors_.downloads.Add(Send({bytes_.substr(1)}));
  tensors_.downloads.Add(Send({}));
  EXPECT_TRUE(absl::IsInternal(connection_->Download("long", call_).status()));
  EXPECT_TRUE(absl::IsInternal(connection_->Download("short", call_).status()));
  EXPECT_TRUE(absl::IsInternal(connection_->Download("empty", call_).status()));
}

}  // namespace
}  // namespace theria::client
