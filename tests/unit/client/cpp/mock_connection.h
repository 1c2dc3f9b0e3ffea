#ifndef THERIA_TESTS_UNIT_CLIENT_CPP_MOCK_CONNECTION_H_
#define THERIA_TESTS_UNIT_CLIENT_CPP_MOCK_CONNECTION_H_

#include <string>

#include "client/cpp/src/connection.h"
#include "gmock/gmock.h"

namespace theria::client {

class MockConnection : public Connection {
 public:
  MOCK_METHOD((absl::Status), Forward,
              (const v1::ForwardRequest&, v1::ForwardResponse*, CallContext&), (override));
  MOCK_METHOD((absl::Status), Vjp, (const v1::VjpRequest&, v1::VjpResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), Jvp, (const v1::JvpRequest&, v1::JvpResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), Hvp, (const v1::HvpRequest&, v1::HvpResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), Upload,
              (const v1::UploadHeader&, const Tensor&, v1::UploadResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::StatusOr<Tensor>), Download, (const std::string&, CallContext&), (override));
  MOCK_METHOD((absl::Status), DownloadShared, (const v1::DownloadRequest&, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), CreateRegion,
              (const v1::CreateRegionRequest&, v1::RegionInfo*, CallContext&), (override));
  MOCK_METHOD((absl::Status), RenewRegion,
              (const v1::RenewRegionRequest&, v1::RegionInfo*, CallContext&), (override));
  MOCK_METHOD((absl::Status), DeleteRegion,
              (const v1::DeleteRegionRequest&, v1::DeleteRegionResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), Stat, (const v1::StatRequest&, v1::StatResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), List, (const v1::ListRequest&, v1::ListResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), Renew, (const v1::RenewRequest&, v1::RenewResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), Pin, (const v1::PinRequest&, v1::PinResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), Unpin, (const v1::UnpinRequest&, v1::UnpinResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), Delete, (const v1::DeleteRequest&, v1::DeleteResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), GetServerInfo,
              (const v1::GetServerInfoRequest&, v1::GetServerInfoResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::Status), RunBenchmark,
              (const v1::RunBenchmarkRequest&, v1::RunBenchmarkResponse*, CallContext&),
              (override));
  MOCK_METHOD((absl::StatusOr<Health>), CheckHealth, (const std::string&, CallContext&),
              (override));
};

}  // namespace theria::client

#endif  // THERIA_TESTS_UNIT_CLIENT_CPP_MOCK_CONNECTION_H_
