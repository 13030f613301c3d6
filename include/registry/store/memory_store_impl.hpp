// The definitions of memory_store.hpp.
#pragma once

#include <asio/any_io_executor.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "registry/model/decl.hpp"
#include "registry/store/memory_backend.hpp"
#include "registry/store/memory_store.hpp"

namespace registry {

REGISTRY_DECL MemoryStore::MemoryStore(std::shared_ptr<detail::MemoryBackend> memory)
    : Store(memory), memory_(std::move(memory)) {}

REGISTRY_DECL void MemoryStore::save() { memory_->save(); }

REGISTRY_DECL std::error_code MemoryStore::save_error() const { return memory_->save_error(); }

REGISTRY_DECL std::int64_t MemoryStore::put(const std::string& key, const std::string& value,
                                            std::int64_t lease) {
  return memory_->put(key, value, lease);
}

REGISTRY_DECL bool MemoryStore::erase(const std::string& key) { return memory_->erase(key); }

REGISTRY_DECL bool MemoryStore::expire(std::int64_t lease) { return memory_->end_lease(lease); }

REGISTRY_DECL void MemoryStore::compact(std::int64_t revision) { memory_->compact(revision); }

REGISTRY_DECL void MemoryStore::disconnect() { memory_->disconnect(); }

REGISTRY_DECL void MemoryStore::set_unavailable(bool unavailable) { memory_->set_unavailable(unavailable); }

REGISTRY_DECL std::shared_ptr<detail::MemoryBackend> MemoryStore::open(const asio::any_io_executor& executor,
                                                                       MemoryStoreConfig config) {
  validate(config);
  auto memory = std::make_shared<detail::MemoryBackend>(executor, std::move(config));
  memory->start();
  return memory;
}

}  // namespace registry
