#include "client/cpp/src/identity.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "grpcpp/test/client_context_test_peer.h"
#include "gtest/gtest.h"
#include "theria/error_details.h"

namespace theria::client {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;

// The text of a key, but not one.
constexpr char kKey[] = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
constexpr char kCertificate[] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

class IdentityTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directory(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) const {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  // What is wrong with the options, of which that named `field` is.
  static std::string Wrong(const absl::Status& status, const std::string& field) {
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    const ErrorDetails details = DetailsOf(status);
    EXPECT_EQ(details.field_violations.size(), 1u);
    if (details.field_violations.size() == 1) {
      EXPECT_EQ(details.field_violations[0].field, field);
    }
    return std::string(status.message());
  }

  const std::string folder_ = testing::TempDir() + "theria-identity-" + std::to_string(getpid());
};

absl::Status Add(const ClientOptions& options) {
  grpc::ClientContext context;
  return CallMetadata(options).AddTo(context);
}

TEST_F(IdentityTest, ATokenIsALine) {
  for (const char* text : {"t0ken~!", "t0ken~!\n", "t0ken~!\r\n"}) {
    for (const ClientOptions& options :
         {ClientOptions{.token = text}, ClientOptions{.token_file = Write("token", text)}}) {
      grpc::ClientContext context;
      ASSERT_TRUE(CallMetadata(options).AddTo(context).ok());
      EXPECT_THAT(grpc::testing::ClientContextTestPeer(&context).GetSendInitialMetadata(),
                  ElementsAre(Pair("authorization", "Bearer t0ken~!")));
    }
  }
  grpc::ClientContext context;
  ASSERT_TRUE(CallMetadata({}).AddTo(context).ok());
  EXPECT_THAT(grpc::testing::ClientContextTestPeer(&context).GetSendInitialMetadata(), IsEmpty());
}

TEST_F(IdentityTest, WhatIsNoTokenIsRefusedAndNotShown) {
  for (const std::string& text :
       {std::string("secret\nsecret\n"), std::string("secret\n\n"), std::string("secret secret"),
        std::string(" secret"), std::string("secret\0", 7), std::string("secret\xff"),
        std::string("secret\x7f"), std::string(kKey), std::string("\n")}) {
    const std::string file = Write("token", text);
    const std::string of_file = Wrong(Add({.token_file = file}), "token_file");
    EXPECT_THAT(of_file, HasSubstr(file));
    const std::string of_value = Wrong(Add({.token = text}), "token");
    for (const std::string& message : {of_file, of_value}) {
      EXPECT_THAT(message, Not(HasSubstr("secret")));
      EXPECT_THAT(message, Not(HasSubstr("PRIVATE")));
    }
  }
}

TEST_F(IdentityTest, ATokenFileHoldsOne) {
  for (const std::string& path : {Write("empty", ""), folder_, folder_ + "/none"}) {
    EXPECT_THAT(Wrong(Add({.token_file = path}), "token_file"), HasSubstr(path));
  }
}

TEST_F(IdentityTest, ABadTokenFileCountsUntilItIsReplaced) {
  const std::string file = Write("token", "two\nlines");
  CallMetadata metadata({.token_file = file});
  for (const bool is_good : {false, false, true, false}) {
    Write("token", is_good ? "one" : "two\nlines");
    grpc::ClientContext context;
    EXPECT_EQ(metadata.AddTo(context).ok(), is_good);
  }
}

TEST_F(IdentityTest, TlsFilesHoldWhatTheyShould) {
  const std::string key = Write("key", kKey);
  const std::string certificate = Write("certificate", kCertificate);
  const auto credentials = [](const TlsOptions& tls) {
    return MakeChannelCredentials({.tls = tls}).status();
  };
  EXPECT_TRUE(
      credentials({.ca_file = certificate, .cert_file = certificate, .key_file = key}).ok());
  EXPECT_TRUE(credentials({}).ok());
  for (const std::string& path :
       {key, Write("empty", ""), Write("text", "no PEM"), folder_, folder_ + "/none",
        Write("request", "-----BEGIN CERTIFICATE REQUEST-----\n")}) {
    EXPECT_THAT(Wrong(credentials({.ca_file = path}), "tls.ca_file"), HasSubstr(path));
    EXPECT_THAT(Wrong(credentials({.cert_file = path, .key_file = key}), "tls.cert_file"),
                HasSubstr(path));
  }
  EXPECT_THAT(
      Wrong(credentials({.cert_file = certificate, .key_file = certificate}), "tls.key_file"),
      HasSubstr(certificate));
  Wrong(credentials({.cert_file = certificate}), "tls.key_file");
  Wrong(credentials({.key_file = key}), "tls.cert_file");
}

}  // namespace
}  // namespace theria::client
