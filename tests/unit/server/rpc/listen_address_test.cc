#include "server/rpc/listen_address.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

class ListenAddressTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    path_ = folder_ + "/socket";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // A bound socket at path_; it listens if `listens`.
  int Bind(bool listens) const {
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
    EXPECT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    if (listens) {
      EXPECT_EQ(listen(fd, 1), 0);
    }
    return fd;
  }

  std::string folder_ = testing::TempDir() + "theria-listen-XXXXXX";
  std::string path_;
};

TEST_F(ListenAddressTest, KnowsUnixAddresses) {
  EXPECT_EQ(UnixPath("unix:/run/theria.sock"), "/run/theria.sock");
  EXPECT_EQ(UnixPath("localhost:1"), "");
  EXPECT_EQ(WithPort("unix:/a:0", 5), "unix:/a:0");
  EXPECT_EQ(WithPort("[::]:0", 5), "[::]:5");
}

TEST_F(ListenAddressTest, TakesAFreePath) { EXPECT_TRUE(PrepareUnixPath(path_).ok()); }

TEST_F(ListenAddressTest, NamesAFolderThatDoesNotExist) {
  const absl::Status status = PrepareUnixPath(folder_ + "/nowhere/socket");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "cannot listen on unix:" + folder_ + "/nowhere/socket: the folder " +
                                  folder_ + "/nowhere does not exist");
}

TEST_F(ListenAddressTest, NamesAFolderThatIsNone) {
  std::ofstream(path_) << "precious";
  EXPECT_THAT(std::string(PrepareUnixPath(path_ + "/socket").message()), testing::HasSubstr(path_));
}

TEST_F(ListenAddressTest, RemovesTheSocketOfADeadServer) {
  close(Bind(/*listens=*/true));
  EXPECT_TRUE(std::filesystem::exists(path_));
  EXPECT_TRUE(PrepareUnixPath(path_).ok());
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(ListenAddressTest, LeavesALiveServerAlone) {
  const int fd = Bind(/*listens=*/true);
  EXPECT_EQ(PrepareUnixPath(path_).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(std::filesystem::exists(path_));
  close(fd);
}

TEST_F(ListenAddressTest, LeavesOtherFilesAlone) {
  std::ofstream(path_) << "precious";
  EXPECT_EQ(PrepareUnixPath(path_).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(std::filesystem::file_size(path_), 8u);
}

TEST_F(ListenAddressTest, RefusesPathsThatNoSocketHas) {
  EXPECT_EQ(PrepareUnixPath("").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(PrepareUnixPath("/" + std::string(200, 'a')).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace theria::server
