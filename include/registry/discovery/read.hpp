// Reading services from the store, once.
#pragma once

#include <asio/awaitable.hpp>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/discovery/value_reader.hpp"
#include "registry/model/filter.hpp"
#include "registry/store/follow.hpp"
#include "registry/store/store.hpp"

namespace registry::detail {

/// How often a list that was overtaken by a compaction between two pages is begun anew.
inline constexpr int read_attempts = 3;

inline asio::awaitable<std::vector<ServiceInstance>> read_service(std::shared_ptr<StoreBackend> backend,
                                                                  KeyRange range, ValueReader reader,
                                                                  ServiceFilter filter) {
  std::vector<ServiceInstance> instances;
  ListQuery first(std::move(range));
  first.limit = FollowConfig().page_size;
  for (int attempt = 1;; ++attempt) {
    instances.clear();
    std::string store_id;
    std::optional<ListQuery> query = first;
    try {
      while (query) {
        const Page page = co_await backend->list(*query);
        if (query->after.empty()) store_id = page.store_id;
        for (const KeyValue& pair : page.items) {
          const auto instance = reader.read(pair);
          if (instance && filter.matches(*instance)) instances.push_back(*instance);
        }
        query = Following::behind(*query, page, store_id);
      }
      co_return instances;
    } catch (const std::system_error& error) {
      const bool overtaken = error.code() == errc::compacted || error.code() == errc::store_changed;
      if (!overtaken || attempt == read_attempts) throw;
    }
  }
}

/// The names of all services that have a key of an instance. The rest of a service is skipped where a page
/// ends in it.
inline asio::awaitable<std::vector<std::string>> read_services(std::shared_ptr<StoreBackend> backend,
                                                               KeyLayout layout) {
  ListQuery first(layout.all_range());
  first.limit = 256;
  first.keys_only = true;
  for (int attempt = 1;; ++attempt) {
    std::set<std::string> names;  // the order of keys is not that of names: '-' and '.' sort before '/'
    std::string store_id;
    std::optional<ListQuery> query = first;
    try {
      while (query) {
        const Page page = co_await backend->list(*query);
        if (query->after.empty()) store_id = page.store_id;
        for (const KeyValue& pair : page.items) {
          if (const auto key = layout.parse(pair.key)) names.emplace(key->service);
        }
        query = Following::behind(*query, page, store_id);
        if (!query) break;
        // The end of a service's range is no instance's key, so "behind it" misses nothing.
        if (const auto key = layout.parse(query->after))
          query->after = layout.service_range(key->service).end;
      }
      co_return std::vector<std::string>(names.begin(), names.end());
    } catch (const std::system_error& error) {
      const bool overtaken = error.code() == errc::compacted || error.code() == errc::store_changed;
      if (!overtaken || attempt == read_attempts) throw;
    }
  }
}

}  // namespace registry::detail
