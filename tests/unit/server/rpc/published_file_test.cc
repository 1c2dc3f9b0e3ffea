#include "server/rpc/published_file.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "gtest/gtest.h"

namespace theria::server {
namespace {

std::string Read(std::istream& file) {
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

struct stat StatusOf(const PublishedFile& file) {
  struct stat status {};
  EXPECT_EQ(stat(file.path().c_str(), &status), 0);
  return status;
}

TEST(PublishedFileTest, OnePathShowsTheLastText) {
  PublishedFile file;
  ASSERT_TRUE(file.Publish("first").ok());
  const std::string path = file.path();
  std::ifstream early(path);
  const time_t modified = StatusOf(file).st_mtime;
  ASSERT_TRUE(file.Publish("2").ok());
  EXPECT_EQ(file.path(), path);
  std::ifstream late(path);
  EXPECT_EQ(Read(late), "2");
  EXPECT_EQ(Read(early), "first");  // whole, whoever opened it before
  EXPECT_NE(StatusOf(file).st_mtime, modified);
}

TEST(PublishedFileTest, IsItsOwnersAndGoesWithHim) {
  std::string path;
  {
    PublishedFile file;
    ASSERT_TRUE(file.Publish("key").ok());
    path = file.path();
    EXPECT_EQ(StatusOf(file).st_mode & 0777, 0600u);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace theria::server
