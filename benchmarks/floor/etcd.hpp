// The floor: what the library does at etcd, by bare gRPC, as short and as fast as can be. Nothing of the library but the
// generated messages. Whatever fails throws.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace bare {

std::shared_ptr<grpc::Channel> connect(const std::string& endpoint);

/// Reads a JSON value with Boost.JSON, in memory that is used again and again, and drops it.
void drop_json(const std::string& text);

/// A watch of the range: reads messages and the JSON values of their events until `context` is cancelled. A blocking
/// stream, which needs no second thread and no hand-over.
void watch(const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context,
           const std::string& begin, const std::string& end, const std::function<void()>& on_created,
           const std::function<void()>& on_event);

/// The same by gRPC's callback API, as coroutines need it: no thread is blocked by a read, but gRPC's own threads are woken.
void watch_by_callbacks(const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context,
                        const std::string& begin, const std::string& end,
                        const std::function<void()>& on_created, const std::function<void()>& on_event);

/// Reads the range in pages at one revision, and the JSON values in them. How many there were.
std::size_t list(const std::shared_ptr<grpc::Channel>& channel, const std::string& begin,
                 const std::string& end, std::int64_t page_size);

/// Grants a lease for each pair and puts the pair on it, all started together. The leases.
std::vector<std::int64_t> register_all(const std::shared_ptr<grpc::Channel>& channel,
                                       const std::vector<std::pair<std::string, std::string>>& pairs,
                                       std::int64_t ttl);

/// Revokes them, all started together.
void revoke_all(const std::shared_ptr<grpc::Channel>& channel, const std::vector<std::int64_t>& leases);

}  // namespace bare
