#include "server/identity/read_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

using testing::HasSubstr;

class ReadFileTest : public testing::Test {
 protected:
  ~ReadFileTest() override { std::remove(path_.c_str()); }

  const std::string path_ = testing::TempDir() + "/theria_read_file." + std::to_string(getpid());
};

TEST_F(ReadFileTest, ReadsUpToTheLimit) {
  const std::string text(kMaxFileBytes, 'x');
  std::ofstream(path_) << text;
  EXPECT_EQ(*ReadFile("tenants", path_), text);
  std::ofstream(path_, std::ios::app) << 'x';
  EXPECT_THAT(std::string(ReadFile("tenants", path_).status().message()),
              HasSubstr("has more than 4194304 bytes"));
}

TEST_F(ReadFileTest, DoesNotWaitForTheWriterOfANamedPipe) {
  ASSERT_EQ(mkfifo(path_.c_str(), S_IRUSR | S_IWUSR), 0);
  const absl::StatusOr<std::string> read = ReadFile("tenants", path_);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(read.status().message()),
              HasSubstr("--tenants is '" + path_ + "', which is not a regular file"));
}

TEST_F(ReadFileTest, RefusesDevicesAndFolders) {
  EXPECT_THAT(std::string(ReadFile("tls-key", "/dev/zero").status().message()),
              HasSubstr("which is not a regular file"));
  EXPECT_THAT(std::string(ReadFile("tls-key", "/tmp").status().message()),
              HasSubstr("which cannot be read: Is a directory"));
}

}  // namespace
}  // namespace theria::server
