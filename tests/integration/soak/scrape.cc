#include "tests/integration/soak/scrape.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"

namespace theria::soak {
namespace {

class Socket {
 public:
  Socket() : descriptor_(socket(AF_INET, SOCK_STREAM, 0)) {}
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() { close(descriptor_); }

  bool Connect(const std::string& host, int port) const {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    return inet_pton(AF_INET, host.c_str(), &address.sin_addr) == 1 &&
           connect(descriptor_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  }
  bool Send(const std::string& text) const {
    return send(descriptor_, text.data(), text.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(text.size());
  }
  std::string ReceiveAll() const {
    std::string text;
    std::array<char, 65536> buffer;
    for (ssize_t size = 0; (size = recv(descriptor_, buffer.data(), buffer.size(), 0)) > 0;) {
      text.append(buffer.data(), static_cast<std::size_t>(size));
    }
    return text;
  }

 private:
  int descriptor_;
};

// name{label="value",...} value. No label value here contains a quote, comma or brace.
std::optional<Sample> ParseSample(const std::string& line) {
  const std::size_t space = line.rfind(' ');
  const std::size_t open = line.find('{');
  const std::size_t shut = line.rfind('}');
  if (space == std::string::npos) return std::nullopt;
  Sample sample{.name = line.substr(0, std::min(open, space))};
  char* end = nullptr;
  sample.value = std::strtod(line.c_str() + space, &end);
  if (*end != '\0') return std::nullopt;
  if (open == std::string::npos) return sample;
  if (shut == std::string::npos || shut > space) return std::nullopt;
  std::istringstream labels(line.substr(open + 1, shut - open - 1));
  for (std::string label; std::getline(labels, label, ',');) {
    const std::size_t equals = label.find("=\"");
    if (equals == std::string::npos || label.back() != '"') return std::nullopt;
    sample.labels[label.substr(0, equals)] = label.substr(equals + 2, label.size() - equals - 3);
  }
  return sample;
}

}  // namespace

double Metrics::Sum(const std::string& name,
                    const std::map<std::string, std::string>& labels) const {
  double sum = 0.0;
  for (const Sample& sample : samples_) {
    const bool matches =
        sample.name == name && std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
          const auto found = sample.labels.find(label.first);
          return found != sample.labels.end() && found->second == label.second;
        });
    if (matches) sum += sample.value;
  }
  return sum;
}

absl::StatusOr<Metrics> ParseMetrics(const std::string& text) {
  std::vector<Sample> samples;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.front() == '#') continue;
    std::optional<Sample> sample = ParseSample(line);
    if (!sample.has_value()) return absl::InternalError(absl::StrCat("no sample: ", line));
    samples.push_back(*std::move(sample));
  }
  return Metrics(std::move(samples));
}

absl::StatusOr<Metrics> Scrape(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  const Socket socket;
  if (!socket.Connect(address.substr(0, colon), std::atoi(address.c_str() + colon + 1)) ||
      !socket.Send(absl::StrCat("GET /metrics HTTP/1.1\r\nHost: ", address,
                                "\r\nConnection: close\r\n\r\n"))) {
    return absl::UnavailableError(absl::StrCat("no metrics at ", address));
  }
  const std::string reply = socket.ReceiveAll();
  const std::size_t body = reply.find("\r\n\r\n");
  if (reply.rfind("HTTP/1.1 200 ", 0) != 0 || body == std::string::npos) {
    return absl::InternalError(absl::StrCat("unexpected reply: ", reply.substr(0, 200)));
  }
  return ParseMetrics(reply.substr(body + 4));
}

}  // namespace theria::soak
