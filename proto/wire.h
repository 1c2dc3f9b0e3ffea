#ifndef THERIA_PROTO_WIRE_H_
#define THERIA_PROTO_WIRE_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/message_lite.h"
#include "google/protobuf/wire_format_lite.h"

// Fields of a known length, read and written around generated code, which would copy their bytes.

namespace theria::wire {

constexpr std::uint32_t Tag(int field_number) {
  using google::protobuf::internal::WireFormatLite;
  return WireFormatLite::MakeTag(field_number, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}

// What stands before the bytes of a field.
inline std::string TagAndSize(int field_number, std::size_t size_bytes) {
  using google::protobuf::io::CodedOutputStream;
  std::array<std::uint8_t, 16> buffer;
  std::uint8_t* end = CodedOutputStream::WriteTagToArray(Tag(field_number), buffer.data());
  end = CodedOutputStream::WriteVarint32ToArray(static_cast<std::uint32_t>(size_bytes), end);
  return {buffer.data(), end};
}

// Reads size and bytes of a field that is a message. False: malformed. REQUIRES: its tag was read,
// and no limit is set.
inline bool ReadMessage(google::protobuf::io::CodedInputStream& input,
                        google::protobuf::MessageLite& message) {
  std::uint32_t size_bytes = 0;
  if (!input.ReadVarint32(&size_bytes)) return false;
  const auto limit = input.PushLimit(static_cast<int>(size_bytes));
  // The limit is cut to the input's end: a message that claims more has bytes left to read.
  if (!message.ParseFromCodedStream(&input) || input.BytesUntilLimit() != 0) return false;
  input.PopLimit(limit);
  return true;
}

// Hands the next `size_bytes` to `take(const char* data, std::size_t size_bytes)`, in the pieces
// that they lie in, until it returns false. False: it did, or there are too few.
template <typename Take>
bool TakePieces(google::protobuf::io::CodedInputStream& input, std::size_t size_bytes, Take take) {
  while (size_bytes > 0) {
    const void* data = nullptr;
    int available_bytes = 0;
    if (!input.GetDirectBufferPointer(&data, &available_bytes)) return false;
    const std::size_t piece_bytes = std::min(size_bytes, static_cast<std::size_t>(available_bytes));
    if (!take(static_cast<const char*>(data), piece_bytes)) return false;
    input.Skip(static_cast<int>(piece_bytes));
    size_bytes -= piece_bytes;
  }
  return true;
}

}  // namespace theria::wire

#endif  // THERIA_PROTO_WIRE_H_
