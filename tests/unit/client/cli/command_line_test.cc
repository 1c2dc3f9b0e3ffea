#include "client/cli/command_line.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "client/cli/exit_code.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/unit/client/cli/faulty_server.h"
#include "theria/v1/server.grpc.pb.h"

namespace theria::cli {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::internal::CaptureStderr;
using testing::internal::CaptureStdout;
using testing::internal::GetCapturedStderr;
using testing::internal::GetCapturedStdout;

struct Finished {
  int exit_code;
  std::string output;
  std::string errors;
};

Finished RunTheria(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "theria");
  CaptureStdout();
  CaptureStderr();
  const int exit_code = RunCommandLine(static_cast<int>(arguments.size()), arguments.data());
  std::fflush(stdout);
  return {exit_code, GetCapturedStdout(), GetCapturedStderr()};
}

// Nobody listens on the reserved port 1.
constexpr char kNobody[] = "127.0.0.1:1";

TEST(CommandLineTest, ParityOfARightServerHolds) {
  const FaultyServer server;
  const std::string json =
      testing::TempDir() + "theria-parity-" + std::to_string(getpid()) + ".json";
  const Finished run = RunTheria({"parity", server.target().c_str(), "--json", json.c_str()});
  EXPECT_EQ(run.exit_code, kHeld) << run.output << run.errors;
  EXPECT_THAT(run.output, HasSubstr("with explicit float64 attention, suite quick"));
  EXPECT_THAT(run.output, HasSubstr(" held, 0 failed, 0 skipped"));
  EXPECT_EQ(run.errors, "");  // no progress bar where there is no terminal
  const nlohmann::json document = nlohmann::json::parse(std::ifstream(json));
  EXPECT_EQ(document["target_version"], "1.2.3");
  EXPECT_EQ(document["reference"], "explicit float64 attention");
  EXPECT_FALSE(document.contains("reference_version"));
  EXPECT_EQ(document["cases"].size(), document["held"]);
  std::remove(json.c_str());
}

// A server with a fault agrees with another one like it.
TEST(CommandLineTest, ParityFindsAFaultThatAReferenceShares) {
  const FaultyServer server(Fault::kCausalOffByOne);
  const char* target = server.target().c_str();
  EXPECT_EQ(RunTheria({"parity", target, "--reference", target}).exit_code, kHeld);
  const Finished run = RunTheria({"parity", target});
  EXPECT_EQ(run.exit_code, kFailed);
  EXPECT_THAT(run.output, HasSubstr("FAILED reference float64 forward causal 1x2/2"));
}

TEST(CommandLineTest, ParityWithAReferenceFindsADifference) {
  const FaultyServer target(Fault::kFrozenStatistics);
  const FaultyServer reference;
  const std::string json =
      testing::TempDir() + "theria-reference-" + std::to_string(getpid()) + ".json";
  const Finished run = RunTheria({"parity", target.target().c_str(), "--reference",
                                  reference.target().c_str(), "--json", json.c_str()});
  EXPECT_EQ(run.exit_code, kFailed) << run.output;
  EXPECT_THAT(run.output, HasSubstr("FAILED reference float64 jvp plain"));
  EXPECT_THAT(run.output, HasSubstr("FAILED reference float64 hvp finite differences plain"));
  const nlohmann::json document = nlohmann::json::parse(std::ifstream(json));
  EXPECT_EQ(document["reference"], reference.target());
  EXPECT_EQ(document["reference_version"], "1.2.3");
  std::remove(json.c_str());
}

TEST(CommandLineTest, Info) {
  const FaultyServer server;
  const Finished run = RunTheria({"info", server.target().c_str()});
  EXPECT_EQ(run.exit_code, kHeld);
  EXPECT_THAT(run.output, HasSubstr("theria 1.2.3"));
  const Finished json = RunTheria({"info", server.target().c_str(), "--json", "-"});
  EXPECT_EQ(json.exit_code, kHeld);
  EXPECT_EQ(nlohmann::json::parse(json.output)["kernels"].size(), 16u);
}

TEST(CommandLineTest, Health) {
  grpc::EnableDefaultHealthCheckService(true);
  v1::ServerService::Service service;  // a server needs one
  int port = 0;
  const std::unique_ptr<grpc::Server> server =
      grpc::ServerBuilder()
          .AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port)
          .RegisterService(&service)
          .BuildAndStart();
  ASSERT_NE(server, nullptr);
  grpc::EnableDefaultHealthCheckService(false);
  const std::string target = "127.0.0.1:" + std::to_string(port);
  const Finished serving = RunTheria({"health", target.c_str()});
  EXPECT_EQ(serving.exit_code, kHeld) << serving.errors;
  EXPECT_EQ(serving.output, "SERVING\n");
  const Finished unknown = RunTheria({"health", target.c_str(), "--service", "none.such"});
  EXPECT_EQ(unknown.exit_code, kFailed) << unknown.errors;
  EXPECT_EQ(unknown.output, "SERVICE_UNKNOWN\n");
  server->GetHealthCheckService()->SetServingStatus(false);
  const Finished draining = RunTheria({"health", target.c_str()});
  EXPECT_EQ(draining.exit_code, kFailed) << draining.errors;
  EXPECT_EQ(draining.output, "NOT_SERVING\n");
}

TEST(CommandLineTest, Bench) {
  const FaultyServer server;
  const Finished run = RunTheria({"bench", server.target().c_str(), "--preset", "maml", "--window",
                                  "0.01", "--max-windows", "1", "--json", "-"});
  EXPECT_EQ(run.exit_code, kHeld) << run.errors;
  const nlohmann::json document = nlohmann::json::parse(run.output);
  ASSERT_EQ(document["operations"].size(), 4u);
  EXPECT_EQ(document["operations"][3]["operation"], "hvp");
  EXPECT_EQ(document["operations"][0]["device"]["median_seconds"], 0.5);
  EXPECT_GT(document["operations"][0]["client"]["windows"][0]["calls"], 0);
}

std::vector<std::vector<const char*>> LongCommands(const FaultyServer& server) {
  const char* target = server.target().c_str();
  return {{"bench", target, "--preset", "maml", "--window", "0.01", "--max-windows", "1"},
          {"parity", target},
          {"maml", target, "--mode", "full", "--dtype", "float64", "--outer-steps", "1",
           "--meta-batch", "1", "--inner-steps", "1"}};
}

TEST(CommandLineTest, LongCommandsWaitAsLongAsTheServerSays) {
  FaultyServer server;
  for (const std::vector<const char*>& arguments : LongCommands(server)) {
    server.Refuse(10, absl::Milliseconds(1));
    const Finished run = RunTheria(arguments);
    EXPECT_EQ(run.exit_code, kHeld) << arguments[0] << run.output << run.errors;
    EXPECT_EQ(server.refusals_left(), 0);
  }
}

TEST(CommandLineTest, LongCommandsEndIfTheServerKeepsRefusing) {
  FaultyServer server;
  for (const std::vector<const char*>& arguments : LongCommands(server)) {
    server.Refuse(1'000'000, absl::Milliseconds(2));
    const Finished run = RunTheria(arguments);
    EXPECT_EQ(run.exit_code, kEnded) << arguments[0] << run.output << run.errors;
    EXPECT_THAT(run.errors, HasSubstr(" ended: RESOURCE_EXHAUSTED: "));
    EXPECT_THAT(run.errors, HasSubstr("too many; the server asks to wait 2.000 ms"));
  }
}

TEST(CommandLineTest, WhatIsWrongHereIsNotUnreachable) {
  const std::string file = testing::TempDir() + "theria-token-" + std::to_string(getpid());
  std::ofstream(file) << "-----BEGIN PRIVATE KEY-----\nsecret\n";
  for (const std::vector<const char*>& arguments :
       std::vector<std::vector<const char*>>{{"info", kNobody, "--token-file", file.c_str()},
                                             {"health", kNobody, "--token-file", file.c_str()},
                                             {"info", kNobody, "--tls-ca", file.c_str()},
                                             {"info", "localhost"},
                                             {"health", "localhost"},
                                             {"info", "localhost:99999"}}) {
    const Finished run = RunTheria(arguments);
    EXPECT_EQ(run.exit_code, kUnusable);
    EXPECT_THAT(run.errors, HasSubstr(std::string(arguments[1]) + ": INVALID_ARGUMENT: "));
    EXPECT_THAT(run.errors, Not(HasSubstr("secret")));
  }
  std::remove(file.c_str());
}

TEST(CommandLineTest, UnreachableTargets) {
  const FaultyServer server;
  for (const std::vector<const char*>& arguments : std::vector<std::vector<const char*>>{
           {"info", kNobody},
           {"health", kNobody},
           {"bench", kNobody},
           {"parity", kNobody},
           {"parity", kNobody, "--reference", server.target().c_str()},
           {"parity", server.target().c_str(), "--reference", kNobody}}) {
    const Finished run = RunTheria(arguments);
    EXPECT_EQ(run.exit_code, kUnusable) << arguments[0];
    EXPECT_THAT(run.errors, HasSubstr("127.0.0.1:1: cannot be reached: UNAVAILABLE"));
  }
}

TEST(CommandLineTest, WrongUsage) {
  for (const std::vector<const char*>& arguments :
       std::vector<std::vector<const char*>>{{},
                                             {"no-such-command"},
                                             {"maml", kNobody, "--seed", "-1"},
                                             {"info"},
                                             {"parity"},
                                             {"parity", kNobody, "--suite", "huge"},
                                             {"bench", kNobody, "--preset", "none"},
                                             {"bench", kNobody, "--concurrency", "0"}}) {
    EXPECT_EQ(RunTheria(arguments).exit_code, kUnusable);
  }
  EXPECT_EQ(RunTheria({"--help"}).exit_code, kHeld);
  EXPECT_THAT(RunTheria({"no-such-command"}).errors, HasSubstr("no-such-command"));
  EXPECT_THAT(RunTheria({}).errors, HasSubstr("subcommand is required"));
  EXPECT_THAT(RunTheria({"maml", kNobody, "--seed", "-1"}).errors, HasSubstr("--seed"));
}

TEST(CommandLineTest, Version) {
  const Finished run = RunTheria({"--version"});
  EXPECT_EQ(run.exit_code, kHeld);
  EXPECT_THAT(run.output, testing::MatchesRegex("[0-9]+.[0-9]+.[0-9]+\n"));
}

TEST(CommandLineTest, AFileThatCannotBeWritten) {
  const FaultyServer server;
  const Finished run = RunTheria({"info", server.target().c_str(), "--json", "/no/such/folder/x"});
  EXPECT_EQ(run.exit_code, kUnusable);
  EXPECT_THAT(run.errors, HasSubstr("cannot be written"));
}

}  // namespace
}  // namespace theria::cli
