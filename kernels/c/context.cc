#include "kernels/c/context.h"

#include <cstdio>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/api/message.h"
#include "kernels/cpu/backend.h"
#include "kernels/cuda/backend.h"

namespace {

using theria::Implementation;
using theria::InvalidField;
using theria::Message;

class Timeout final : public theria::Interrupt {
 public:
  explicit Timeout(double seconds) : end_(absl::Now() + absl::Seconds(seconds)) {}
  absl::Status Check() const override {
    if (absl::Now() < end_) return absl::OkStatus();
    return absl::DeadlineExceededError("the timeout passed");
  }

 private:
  absl::Time end_;
};

theria_report Report(Implementation implementation, const std::string& kernel) {
  theria_report report = {};
  report.struct_size = sizeof(report);
  report.implementation = static_cast<std::int32_t>(implementation);
  std::snprintf(report.kernel, sizeof(report.kernel), "%s", kernel.c_str());
  return report;
}

}  // namespace

absl::StatusOr<std::unique_ptr<theria_context>> theria_context::Create(
    const theria_context_options& options) {
  std::unique_ptr<theria_context> context(new theria_context());
  switch (options.device_type) {
    case THERIA_CPU:
      if (options.device_ordinal != 0) {
        return InvalidField("device_ordinal",
                            Message("is ", options.device_ordinal, ", must be 0 for the CPU"));
      }
      if (options.threads < 0) {
        return InvalidField("threads", Message("is ", options.threads, ", must not be negative"));
      }
      context->host_ = theria::MakeCpuBackend({.threads = options.threads});
      break;
    case THERIA_CUDA: {
      theria::CudaBackendOptions cuda;
      cuda.device = options.device_ordinal;
      if (options.tuning_table != nullptr) cuda.tuning_table = options.tuning_table;
      absl::StatusOr<std::unique_ptr<theria::StreamBackend>> backend = MakeCudaBackend(cuda);
      if (!backend.ok()) return backend.status();
      context->stream_ = *std::move(backend);
      break;
    }
    default:
      return InvalidField("device_type", Message("is ", options.device_type,
                                                 ", must be THERIA_CPU or THERIA_CUDA"));
  }
  context->device_ = context->backend().Devices().front();
  context->kernels_ = context->backend().Kernels();
  return context;
}

absl::StatusOr<theria_report> theria_context::Run(const theria::c::Request& request,
                                                  const theria_launch& launch) {
  return stream_ != nullptr ? RunOnStream(request, launch) : RunOnHost(request, launch);
}

absl::StatusOr<theria_report> theria_context::RunOnHost(const theria::c::Request& request,
                                                        const theria_launch& launch) {
  const auto run = [&](const theria::Interrupt& interrupt) {
    return host_->Run(request.problem, request.inputs, request.outputs, interrupt);
  };
  const absl::StatusOr<theria::ComputeReport> done = launch.timeout_seconds > 0
                                                         ? run(Timeout(launch.timeout_seconds))
                                                         : run(theria::NoInterrupt());
  if (!done.ok()) return done.status();
  theria_report report = Report(done->implementation, done->kernel);
  report.compute_seconds = absl::ToDoubleSeconds(done->compute_time);
  return report;
}

absl::StatusOr<theria_report> theria_context::RunOnStream(const theria::c::Request& request,
                                                          const theria_launch& launch) {
  const theria::CallerWorkspace workspace = {launch.workspace, launch.workspace_bytes,
                                             launch.allocate, launch.deallocate, launch.user};
  const absl::StatusOr<theria::EnqueueReport> done =
      stream_->Enqueue(request.problem, request.inputs, request.outputs, launch.stream, workspace);
  if (!done.ok()) return done.status();
  theria_report report = Report(done->implementation, done->kernel);
  report.compute_seconds = -1;
  report.workspace_bytes = done->workspace_bytes;
  return report;
}

absl::Status theria_context::Synchronize(void* stream) {
  return stream_ != nullptr ? stream_->Synchronize(stream) : absl::OkStatus();
}

absl::StatusOr<void*> theria_context::Allocate(std::size_t size_bytes) {
  absl::StatusOr<theria::Buffer> buffer = memory().Allocate(size_bytes);
  if (!buffer.ok()) return buffer.status();
  void* const data = buffer->data();
  const std::lock_guard<std::mutex> lock(mutex_);
  buffers_.insert_or_assign(data, *std::move(buffer));
  return data;
}

void theria_context::Free(void* data) {
  theria::Buffer freed;  // ends after the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = buffers_.find(data);
  if (found == buffers_.end()) return;
  freed = std::move(found->second);
  buffers_.erase(found);
}
