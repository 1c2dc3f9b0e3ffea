#include "server/rpc/inline_payloads.h"

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "theria/v1/attention.pb.h"

namespace theria::server {
namespace {

constexpr std::size_t kMinBytes = 16;

// In slices of at most `slice_bytes`.
grpc::ByteBuffer Sliced(const std::string& bytes, std::size_t slice_bytes) {
  std::vector<grpc::Slice> slices;
  for (std::size_t at = 0; at < bytes.size(); at += slice_bytes) {
    slices.emplace_back(bytes.substr(at, slice_bytes));
  }
  return {slices.data(), slices.size()};
}

std::string Whole(const InlinePayload& payload) {
  std::string bytes;
  for (const absl::Span<const char> piece : payload.pieces)
    bytes.append(piece.begin(), piece.end());
  EXPECT_EQ(bytes.size(), payload.size_bytes);
  return bytes;
}

v1::Tensor Inline(std::size_t size_bytes, char first) {
  v1::Tensor tensor;
  tensor.set_dtype(v1::FLOAT32);
  tensor.add_shape(static_cast<std::int64_t>(size_bytes / 4));
  for (std::size_t i = 0; i < size_bytes; ++i) {
    tensor.mutable_data()->push_back(static_cast<char>(first + static_cast<char>(i)));
  }
  return tensor;
}

v1::HvpRequest Request() {
  v1::HvpRequest request;
  *request.mutable_q() = Inline(200, 'a');
  *request.mutable_k() = Inline(kMinBytes, 'b');
  *request.mutable_v() = Inline(kMinBytes - 4, 'c');
  request.mutable_o_bar()->set_handle("a handle that is longer than the smallest payload");
  *request.mutable_options()->mutable_mask() = Inline(100, 'd');
  request.mutable_options()->set_is_causal(true);
  request.mutable_outputs()->set_q_bar(v1::RESIDENT);
  return request;
}

// Puts the payloads of `part`'s tensors into `whole`, which equals it otherwise.
void Rejoin(const google::protobuf::Message& part, const InlinePayloads& payloads,
            google::protobuf::Message& whole) {
  if (part.GetDescriptor() == v1::Tensor::descriptor()) {
    const auto& tensor = static_cast<const v1::Tensor&>(part);
    const auto found = payloads.find(&tensor);
    if (found == payloads.end() || !tensor.has_data()) return;
    EXPECT_TRUE(tensor.data().empty());
    static_cast<v1::Tensor&>(whole).set_data(Whole(found->second));
    return;
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  part.GetReflection()->ListFields(part, &fields);
  for (const auto* field : fields) {
    if (field->type() != google::protobuf::FieldDescriptor::TYPE_MESSAGE) continue;
    Rejoin(part.GetReflection()->GetMessage(part, field), payloads,
           *whole.GetReflection()->MutableMessage(&whole, field));
  }
}

// Expects of these bytes, however they are cut, what protobuf makes of them.
void ExpectAsProtobuf(const std::string& bytes) {
  v1::HvpRequest expected;
  const bool is_request = expected.ParseFromString(bytes);
  for (const std::size_t slice_bytes :
       {std::size_t{1}, std::size_t{7}, std::size_t{64}, bytes.size() + 1}) {
    grpc::ByteBuffer buffer = Sliced(bytes, slice_bytes);
    v1::HvpRequest request;
    InlinePayloads payloads;
    ASSERT_EQ(ParseRequest(buffer, request, payloads, kMinBytes), is_request) << slice_bytes;
    if (!is_request) continue;
    v1::HvpRequest whole = request;
    Rejoin(request, payloads, whole);
    ASSERT_EQ(whole.SerializeAsString(), expected.SerializeAsString());
  }
}

TEST(InlinePayloadsTest, LeavesLargeDataWhereItCame) {
  const std::string bytes = Request().SerializeAsString();
  grpc::ByteBuffer buffer = Sliced(bytes, 64);
  v1::HvpRequest request;
  InlinePayloads payloads;
  ASSERT_TRUE(ParseRequest(buffer, request, payloads, kMinBytes));
  EXPECT_EQ(payloads.size(), 3u);
  EXPECT_EQ(payloads.count(&request.q()), 1u);
  EXPECT_EQ(payloads.count(&request.k()), 1u);
  EXPECT_EQ(payloads.count(&request.options().mask()), 1u);
  EXPECT_GT(payloads.at(&request.q()).pieces.size(), 2u);
  EXPECT_EQ(request.v().data(), Request().v().data());

  // Not copied: the pieces lie in the buffer's slices.
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(buffer.Dump(&slices).ok());
  for (const absl::Span<const char> piece : payloads.at(&request.q()).pieces) {
    EXPECT_TRUE(std::any_of(slices.begin(), slices.end(), [&](const grpc::Slice& slice) {
      const char* const begin = reinterpret_cast<const char*>(slice.begin());
      return piece.data() >= begin && piece.data() + piece.size() <= begin + slice.size();
    }));
  }
}

TEST(InlinePayloadsTest, ParsesSmallRequestsWhole) {
  const v1::HvpRequest expected = Request();
  grpc::ByteBuffer buffer = Sliced(expected.SerializeAsString(), 64);
  v1::HvpRequest request;
  InlinePayloads payloads;
  ASSERT_TRUE(ParseRequest(buffer, request, payloads));
  EXPECT_TRUE(payloads.empty());
  EXPECT_EQ(request.SerializeAsString(), expected.SerializeAsString());
}

TEST(InlinePayloadsTest, MeansWhatProtobufMeans) {
  const std::string bytes = Request().SerializeAsString();
  ExpectAsProtobuf(bytes);
  ExpectAsProtobuf("");
  // Fields that come twice are merged: the last source counts.
  v1::HvpRequest again;
  *again.mutable_q() = Inline(40, 'x');
  again.mutable_k()->set_handle("a handle after data");
  *again.mutable_o_bar() = Inline(60, 'y');
  *again.mutable_options()->mutable_mask() = Inline(4, 'z');
  ExpectAsProtobuf(bytes + again.SerializeAsString());
  ExpectAsProtobuf(again.SerializeAsString() + bytes);
  v1::HvpRequest no_source;
  no_source.mutable_q()->add_strides(1);
  no_source.mutable_options()->set_is_causal(false);
  ExpectAsProtobuf(bytes + no_source.SerializeAsString());
}

TEST(InlinePayloadsTest, RefusesWhatProtobufRefuses) {
  const std::string bytes = Request().SerializeAsString();
  for (std::size_t size = 0; size < bytes.size(); ++size) ExpectAsProtobuf(bytes.substr(0, size));
  // Bytes changed at random: sizes that reach beyond their message, tags that are none.
  std::mt19937 random(1);
  for (int i = 0; i < 4000; ++i) {
    std::string changed = bytes;
    for (int change = 0; change < 2; ++change) {
      changed[random() % 40] = static_cast<char>(random());
      changed[random() % changed.size()] = static_cast<char>(random());
    }
    ExpectAsProtobuf(changed);
  }
}

}  // namespace
}  // namespace theria::server
