#ifndef THERIA_SERVER_RPC_UNARY_JOB_H_
#define THERIA_SERVER_RPC_UNARY_JOB_H_

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/support/server_callback.h"
#include "server/cache/monotonic_clock.h"
#include "server/engine/executor.h"
#include "server/rpc/request_context.h"
#include "server/rpc/status_map.h"

// A unary RPC whose answer an Executor computes. Deletes itself when gRPC is done with it.

namespace theria::server {

class UnaryJob : public grpc::ServerUnaryReactor, private Job {
 public:
  // Submits `job` and returns the reactor to give to gRPC; a refusal is its answer.
  static grpc::ServerUnaryReactor* Start(UnaryJob* job) {
    if (absl::Status accepted = job->executor_.Submit(*job); !accepted.ok()) job->End(accepted);
    return job;
  }

 protected:
  // `context` is that of the RPC, which was admitted; `executor` outlives the server. The job ends
  // at the call's deadline, at the latest after `max_call_time`. `coalesce_key` as Job::Terms says;
  // jobs of equal keys are of one class that has AnswerTogether.
  UnaryJob(Executor& executor, RequestContext& context, Demand demand, absl::Duration max_call_time,
           std::string coalesce_key = "")
      : Job(demand,
            std::min(SteadyTime(absl::FromChrono(context.deadline())), SteadyNow() + max_call_time),
            {&context.account(), context.priority(), std::move(coalesce_key)}),
        executor_(executor),
        context_(context) {}

  RequestContext& context() { return context_; }
  const Interrupt& interrupt() const { return *this; }

  // Computes and fills the response.
  virtual absl::Status Answer() = 0;

  // The same for `together`, of which this is one; one status for each.
  virtual std::vector<absl::Status> AnswerTogether(absl::Span<UnaryJob* const> together) {
    std::vector<absl::Status> statuses;
    for (UnaryJob* job : together) statuses.push_back(job->Answer());
    return statuses;
  }

  // Gives back what the call holds beside its response, so that nothing of it is left by the time
  // that the client has the answer.
  virtual void Release() {}

 private:
  void Run(absl::Duration queue_time) final {
    context_.record()->queue_time = queue_time;
    End(Answer());
  }
  void RunWith(absl::Span<const Companion> together) final {
    std::vector<UnaryJob*> jobs;
    for (const Companion& companion : together) {
      jobs.push_back(static_cast<UnaryJob*>(companion.job));
      jobs.back()->context_.record()->queue_time = companion.queue_time;
    }
    const std::vector<absl::Status> statuses = AnswerTogether(jobs);
    for (std::size_t i = 0; i < jobs.size(); ++i) jobs[i]->End(statuses[i]);
  }
  void Drop(const absl::Status& why) final { End(why); }
  void End(const absl::Status& status) {
    Release();
    Finish(ToGrpcStatus(status));
  }
  void OnCancel() final { executor_.Cancel(*this); }
  void OnDone() final { delete this; }

  Executor& executor_;
  RequestContext& context_;
};

// A call that ends before there is anything to compute.
inline grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context,
                                           const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_UNARY_JOB_H_
