#include "client/cpp/src/identity.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "client/cpp/src/status_codec.h"
#include "client/cpp/src/text.h"

namespace theria::client {
namespace {

// The content of the file that option `field` names.
absl::StatusOr<std::string> ReadFile(std::string_view field, const std::string& path) {
  // Of a folder, reading would give nothing, as of an empty file.
  std::error_code ignored;
  const bool is_directory = std::filesystem::is_directory(path, ignored);
  std::ifstream file(path, std::ios::binary);
  if (!file || is_directory) return InvalidField(field, Text("cannot read ", path));
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The token that `text` is, with or without the end of its line. Errors: INVALID_ARGUMENT, which
// names `field` and `source` and says nothing of the text: it may be another secret.
absl::StatusOr<std::string> ParseToken(std::string_view field, std::string_view source,
                                       std::string_view text) {
  for (const char end : {'\n', '\r'}) {
    if (!text.empty() && text.back() == end) text.remove_suffix(1);
  }
  if (text.empty() || !std::all_of(text.begin(), text.end(), absl::ascii_isgraph)) {
    return InvalidField(field,
                        Text(source, " is no token: one line of printable ASCII, no spaces"));
  }
  return std::string(text);
}

absl::StatusOr<std::string> FixedToken(const ClientOptions& options) {
  if (options.token.empty()) return std::string();
  return ParseToken("token", "its value", options.token);
}

// Whether there is a PEM block whose label is `label`, such as "EC PRIVATE KEY" for "PRIVATE KEY".
bool HasPemBlock(const std::string& text, std::string_view label) {
  std::istringstream lines(text);
  const std::string end = Text(label, "-----");
  for (std::string line; std::getline(lines, line);) {
    absl::StripTrailingAsciiWhitespace(&line);
    if (absl::StartsWith(line, "-----BEGIN ") && absl::EndsWith(line, end)) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const ClientOptions& options) {
  if (!options.tls.has_value()) return grpc::InsecureChannelCredentials();
  const TlsOptions& tls = *options.tls;
  if (tls.cert_file.empty() != tls.key_file.empty()) {
    return InvalidField(tls.cert_file.empty() ? "tls.cert_file" : "tls.key_file",
                        "is missing: certificate and key go together");
  }
  grpc::SslCredentialsOptions ssl;
  const struct {
    std::string_view field;
    const std::string& path;
    std::string_view label;
    std::string& text;
  } files[] = {{"tls.ca_file", tls.ca_file, "CERTIFICATE", ssl.pem_root_certs},
               {"tls.cert_file", tls.cert_file, "CERTIFICATE", ssl.pem_cert_chain},
               {"tls.key_file", tls.key_file, "PRIVATE KEY", ssl.pem_private_key}};
  for (const auto& file : files) {
    if (file.path.empty()) continue;
    absl::StatusOr<std::string> read = ReadFile(file.field, file.path);
    if (!read.ok()) return read.status();
    if (!HasPemBlock(*read, file.label)) {
      return InvalidField(file.field, Text(file.path, " holds no PEM ", file.label));
    }
    file.text = *std::move(read);
  }
  return grpc::SslCredentials(ssl);
}

CallMetadata::CallMetadata(const ClientOptions& options)
    : token_file_(options.token_file), priority_(options.priority), token_(FixedToken(options)) {}

absl::Status CallMetadata::AddTo(grpc::ClientContext& context) {
  if (priority_ != Priority::kNormal) {
    context.AddMetadata("theria-priority", priority_ == Priority::kHigh ? "high" : "low");
  }
  const std::lock_guard lock(mutex_);
  if (!token_file_.empty()) {
    if (absl::Status refreshed = Refresh(); !refreshed.ok()) return refreshed;
  }
  if (!token_.ok()) return token_.status();
  if (!token_->empty()) context.AddMetadata("authorization", Text("Bearer ", *token_));
  return absl::OkStatus();
}

absl::Status CallMetadata::Refresh() {
  struct stat status {};
  if (stat(token_file_.c_str(), &status) != 0) {
    return InvalidField("token_file", Text("cannot read ", token_file_));
  }
  const auto inode = static_cast<std::int64_t>(status.st_ino);
  const std::int64_t nanoseconds =
      std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  if (inode == inode_ && status.st_size == size_bytes_ && nanoseconds == nanoseconds_) {
    return absl::OkStatus();
  }
  const absl::StatusOr<std::string> text = ReadFile("token_file", token_file_);
  if (!text.ok()) return text.status();
  absl::StatusOr<std::string> token = ParseToken("token_file", token_file_, *text);
  if (!token.ok()) return token.status();
  token_ = *std::move(token);
  inode_ = inode;
  size_bytes_ = status.st_size;
  nanoseconds_ = nanoseconds;
  return absl::OkStatus();
}

}  // namespace theria::client
