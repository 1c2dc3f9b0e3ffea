#include "client/cpp/src/identity.h"

#include <sys/stat.h>

#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "client/cpp/src/text.h"

namespace theria::client {
namespace {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return absl::InvalidArgumentError(Text("cannot read ", path));
  return text.str();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const ClientOptions& options) {
  if (!options.tls.has_value()) return grpc::InsecureChannelCredentials();
  const TlsOptions& tls = *options.tls;
  if (tls.cert_file.empty() != tls.key_file.empty()) {
    return absl::InvalidArgumentError("TlsOptions: cert_file and key_file go together");
  }
  grpc::SslCredentialsOptions ssl;
  for (const auto& [path, text] : {std::pair(&tls.ca_file, &ssl.pem_root_certs),
                                   std::pair(&tls.cert_file, &ssl.pem_cert_chain),
                                   std::pair(&tls.key_file, &ssl.pem_private_key)}) {
    if (path->empty()) continue;
    absl::StatusOr<std::string> read = ReadFile(*path);
    if (!read.ok()) return read.status();
    *text = *std::move(read);
  }
  return grpc::SslCredentials(ssl);
}

CallMetadata::CallMetadata(const ClientOptions& options)
    : token_file_(options.token_file), priority_(options.priority), token_(options.token) {}

absl::Status CallMetadata::AddTo(grpc::ClientContext& context) {
  if (priority_ != Priority::kNormal) {
    context.AddMetadata("theria-priority", priority_ == Priority::kHigh ? "high" : "low");
  }
  const std::lock_guard lock(mutex_);
  if (!token_file_.empty()) {
    if (absl::Status refreshed = Refresh(); !refreshed.ok()) return refreshed;
  }
  if (!token_.empty()) context.AddMetadata("authorization", Text("Bearer ", token_));
  return absl::OkStatus();
}

absl::Status CallMetadata::Refresh() {
  struct stat status {};
  if (stat(token_file_.c_str(), &status) != 0) {
    return absl::InvalidArgumentError(Text("cannot read ", token_file_));
  }
  const auto inode = static_cast<std::int64_t>(status.st_ino);
  const std::int64_t nanoseconds =
      std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  if (inode == inode_ && status.st_size == size_bytes_ && nanoseconds == nanoseconds_) {
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> token = ReadFile(token_file_);
  if (!token.ok()) return token.status();
  absl::StripAsciiWhitespace(&*token);
  token_ = *std::move(token);
  inode_ = inode;
  size_bytes_ = status.st_size;
  nanoseconds_ = nanoseconds;
  return absl::OkStatus();
}

}  // namespace theria::client
