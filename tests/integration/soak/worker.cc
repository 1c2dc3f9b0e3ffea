#include "tests/integration/soak/worker.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/client_context.h"
#include "grpcpp/generic/generic_stub.h"
#include "theria/error_details.h"
#include "theria/v1/attention.grpc.pb.h"
#include "theria/v1/tensor_store.grpc.pb.h"

namespace theria::soak {
namespace {

using client::Operation;

constexpr std::size_t kMaxFailures = 5;
constexpr absl::Duration kTimeout = absl::Seconds(60);
constexpr absl::Duration kLongestPause = absl::Milliseconds(20);

constexpr std::array kMethods = {kForward, kVjp, kJvp, kHvp};

client::ClientOptions Options() {
  client::ClientOptions options;
  options.timeout = kTimeout;
  options.retry.max_attempts = 1;  // each call is one RPC, and each failure shows
  return options;
}

absl::Status FromGrpc(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

// What a unary call's reactor does for a thread that waits for it.
class Completion {
 public:
  void Complete(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    status_ = status;
    is_done_ = true;
    done_.notify_one();
  }
  grpc::Status Wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return is_done_; });
    return status_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool is_done_ = false;
  grpc::Status status_;
};

}  // namespace

Worker::Worker(Shared& shared, std::uint64_t seed)
    : shared_(shared),
      random_(seed),
      client_(shared.target, Options()),
      resident_problem_(&shared.problems[seed % shared.problems.size()]) {}

void Worker::Run() {
  using Action = void (Worker::*)();
  constexpr std::pair<int, Action> kMix[] = {
      {50, &Worker::Attend},     {8, &Worker::AttendResident}, {12, &Worker::RoundTrip},
      {8, &Worker::CheckHealth}, {2, &Worker::GetServerInfo},  {2, &Worker::ListOnePage},
      {5, &Worker::SendMisfit},  {3, &Worker::SendMalformed},  {3, &Worker::UseDeleted},
      {2, &Worker::CancelHvp},   {2, &Worker::OutliveHvp},     {3, &Worker::CancelDownload}};
  if (!Connect() || !PutKeys()) return;
  shared_.pause.Join();
  while (!shared_.is_over.load(std::memory_order_relaxed)) {
    if (shared_.pause.is_on()) {
      client_ = client::Client(shared_.target, Options());  // connects with its next call
      shared_.pause.Pass();
      if (!Connect()) break;
    }
    int draw = Below(100);
    for (const auto& [share, action] : kMix) {
      draw -= share;
      if (draw < 0) {
        (this->*action)();
        break;
      }
    }
  }
  shared_.pause.Leave();
  for (const client::ResidentTensor& tensor : resident_) Book(kDelete, client_.Delete(tensor));
}

bool Worker::Connect() {
  const absl::Time deadline = absl::Now() + kTimeout;
  while (true) {
    const absl::Status status = client_.CheckHealth().status();
    if (!absl::IsUnavailable(status) || absl::Now() > deadline) return Book(kHealthCheck, status);
  }
}

bool Worker::PutKeys() {
  const client::AttentionRequest& request = resident_problem_->request(Operation::kForward);
  for (const client::AnyTensor* tensor : {&request.k, &request.v}) {
    const auto put = client_.Put(tensor->local(), {.ttl = kLeaseOfTheRun});
    if (!Book(kUpload, put.status())) return false;
    resident_.push_back(*put);
  }
  return true;
}

void Worker::Attend() {
  const auto operation = static_cast<Operation>(Below(4));
  const bool is_resident = Below(3) == 0;
  const Problem& problem = is_resident ? *resident_problem_
                                       : shared_.problems[static_cast<std::size_t>(
                                             Below(static_cast<int>(shared_.problems.size())))];
  client::AttentionRequest request = problem.request(operation);
  if (is_resident) request.k = resident_[0], request.v = resident_[1];
  const auto result = client_.Run(operation, request);
  if (!BookAttention(operation, result.status())) return;
  if (const auto wrong = problem.Check(operation, *result)) {
    Fail(absl::StrCat(std::string(client::OperationName(operation)), ": ", *wrong));
  }
}

void Worker::AttendResident() {
  client::AttentionRequest request = resident_problem_->request(Operation::kForward);
  request.outputs.o = client::OutputMode::kResident;
  request.outputs.lse = client::OutputMode::kSkip;
  const auto result = client_.Run(Operation::kForward, request);
  if (!BookAttention(Operation::kForward, result.status())) return;
  const auto o = client_.Get(result->o.resident());
  if (Book(kDownload, o.status())) {
    if (const auto wrong = resident_problem_->CheckOutput(Operation::kForward, "o", *o)) {
      Fail("resident " + *wrong);
    }
  }
  Book(kDelete, client_.Delete(result->o.resident()));
}

client::Tensor Worker::RandomTensor() {
  const std::int64_t elements = 1 + Below(64 << 10);
  client::Tensor tensor = client::Tensor::Zeros(client::DType::kFloat32, {elements});
  for (float& value : tensor.mutable_values<float>()) value = static_cast<float>(random_());
  return tensor;
}

void Worker::RoundTrip() {
  const client::Tensor tensor = RandomTensor();
  const auto put = client_.Put(tensor);
  if (!Book(kUpload, put.status())) return;
  const auto info = client_.Stat(*put);
  if (Book(kStat, info.status()) && info->size_bytes != tensor.size_bytes()) {
    Fail(absl::StrCat("stat: ", info->size_bytes, " bytes, not ", tensor.size_bytes()));
  }
  const auto back = client_.Get(*put);
  if (Book(kDownload, back.status()) && back->values<float>() != tensor.values<float>()) {
    Fail("download: other elements than were uploaded");
  }
  Book(kDelete, client_.Delete(*put));
  Book(kStat, client_.Stat(*put).status(), absl::StatusCode::kFailedPrecondition);
}

void Worker::CheckHealth() {
  const auto health = client_.CheckHealth();
  if (Book(kHealthCheck, health.status()) && *health != client::Health::kServing) {
    Fail("health: not serving");
  }
}

void Worker::GetServerInfo() {
  const auto info = client_.GetServerInfo();
  if (Book(kGetServerInfo, info.status()) && info->kernels.empty()) Fail("info: no kernels");
}

void Worker::ListOnePage() {
  const auto stub = v1::TensorService::NewStub(shared_.channel);
  grpc::ClientContext context;
  v1::ListRequest request;
  v1::ListResponse response;
  request.set_page_size(1 + Below(50));
  const grpc::Status status = stub->List(&context, request, &response);
  if (Book(kList, FromGrpc(status)) && response.tensors_size() > request.page_size()) {
    Fail(absl::StrCat("list: ", response.tensors_size(), " tensors on a page"));
  }
}

void Worker::SendMisfit() {
  const auto operation = static_cast<Operation>(Below(4));
  client::AttentionRequest request = shared_.problems.front().request(operation);
  const client::Tensor& k = request.k.local();
  client::Shape shape = k.shape();
  shape[3] += 1;
  request.k = client::Tensor::Zeros(k.dtype(), shape);
  const absl::Status status = client_.Run(operation, request).status();
  if (!BookAttention(operation, status, absl::StatusCode::kInvalidArgument)) return;
  const auto violations = client::DetailsOf(status).field_violations;
  if (violations.size() != 1 || violations[0].field != "k.shape[3]") {
    Fail(absl::StrCat("misfit: field not named: ", std::string(status.message())));
  }
}

void Worker::SendMalformed() {
  grpc::GenericStub stub(shared_.channel);
  const grpc::Slice slice(std::string(1 + static_cast<std::size_t>(Below(1000)), '\xff'));
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  Completion completion;
  const Method method = kMethods[static_cast<std::size_t>(Below(4))];
  stub.UnaryCall(
      &context, absl::StrCat("/", std::string(method.service), "/", std::string(method.name)), {},
      &request, &response, [&](const grpc::Status& status) { completion.Complete(status); });
  Book(method, FromGrpc(completion.Wait()), absl::StatusCode::kInvalidArgument);
}

void Worker::UseDeleted() {
  client::AttentionRequest request = resident_problem_->request(Operation::kForward);
  const auto put = client_.Put(request.q.local());
  if (!Book(kUpload, put.status())) return;
  Book(kDelete, client_.Delete(*put));
  request.q = *put;
  const absl::Status status = client_.Forward(request).status();
  if (!BookAttention(Operation::kForward, status, absl::StatusCode::kFailedPrecondition)) return;
  if (client::DetailsOf(status).missing_handles != std::vector<std::string>{put->handle()}) {
    Fail("deleted: handle not named");
  }
}

void Worker::BreakOffHvp(const std::function<void(grpc::ClientContext&)>& prepare,
                         const std::function<void(grpc::ClientContext&)>& intervene) {
  const auto stub = v1::AttentionService::NewStub(shared_.channel);
  grpc::ClientContext context;
  v1::HvpResponse response;
  Completion completion;
  prepare(context);
  stub->async()->Hvp(&context, &shared_.long_hvp, &response,
                     [&](const grpc::Status& status) { completion.Complete(status); });
  intervene(context);
  const grpc::Status status = completion.Wait();
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      tally_.Answered(kHvp, static_cast<absl::StatusCode>(status.error_code()));
      break;
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      tally_.BrokenOffPerhaps(kHvp);
      break;
    default:
      tally_.BrokenOffPerhaps(kHvp);
      Fail(absl::StrCat("broken off HVP: ", FromGrpc(status).ToString()));
  }
  ++shared_.calls;
}

void Worker::CancelHvp() {
  BreakOffHvp([](grpc::ClientContext& /*context*/) {},
              [this](grpc::ClientContext& context) {
                absl::SleepFor(absl::Milliseconds(Below(40)));
                context.TryCancel();
              });
}

void Worker::OutliveHvp() {
  BreakOffHvp(
      [this](grpc::ClientContext& context) {
        context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(1 + Below(40))));
      },
      [](grpc::ClientContext& /*context*/) {});
}

void Worker::CancelDownload() {
  const auto stub = v1::TensorService::NewStub(shared_.channel);
  grpc::ClientContext context;
  v1::DownloadRequest request;
  request.set_handle(shared_.download_handle);
  const auto reader = stub->Download(&context, request);
  v1::DownloadResponse response;
  ++shared_.calls;
  if (!reader->Read(&response)) {
    const absl::Status status = FromGrpc(reader->Finish());
    tally_.Answered(kDownload, status.code());
    Fail(absl::StrCat("download without a chunk: ", status.ToString()));
    return;
  }
  context.TryCancel();
  tally_.BrokenOffThere(kDownload);
  const grpc::Status status = reader->Finish();
  if (status.error_code() != grpc::StatusCode::CANCELLED && !status.ok()) {
    Fail(absl::StrCat("cancelled download: ", FromGrpc(status).ToString()));
  }
}

bool Worker::Book(const Method& method, const absl::Status& status, absl::StatusCode expected) {
  tally_.Answered(method, status.code());
  ++shared_.calls;
  if (status.code() == expected) return true;
  Fail(absl::StrCat(std::string(method.name), ": ", status.ToString()));
  return false;
}

bool Worker::BookAttention(Operation operation, const absl::Status& status,
                           absl::StatusCode expected) {
  const Method& method = kMethods[static_cast<std::size_t>(operation)];
  if (!absl::IsResourceExhausted(status)) return Book(method, status, expected);
  Book(method, status, absl::StatusCode::kResourceExhausted);
  const auto delay = client::DetailsOf(status).retry_delay;
  if (!delay.has_value()) Fail("refused without a retry delay");
  absl::SleepFor(std::min(delay.value_or(kLongestPause), kLongestPause));
  return false;
}

void Worker::Fail(const std::string& what) {
  ++shared_.failures;
  if (failures_.size() < kMaxFailures) failures_.push_back(what);
}

}  // namespace theria::soak
