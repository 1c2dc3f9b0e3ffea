#ifndef THERIA_SERVER_RPC_COALESCE_KEY_H_
#define THERIA_SERVER_RPC_COALESCE_KEY_H_

#include <string>

#include "server/rpc/attention_method.h"

namespace theria::server {

// What requests have in common that one Backend::RunTogether may compute: operation, sizes, dtype,
// options, their tensors' dtypes and layouts, and which inputs and outputs there are. The tensors'
// bytes, and who sends them, do not count. Equal for two tasks exactly if all of that is equal.
std::string CoalesceKey(const AttentionTask& task);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_COALESCE_KEY_H_
