// Watches our own keys: one follow for each service we have instances of, and whoever keeps a key is told
// what is seen of it.
#pragma once

#include <asio/awaitable.hpp>
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/home.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/model/config.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/keys.hpp"
#include "registry/observe/observer.hpp"
#include "registry/store/follow.hpp"
#include "registry/store/store.hpp"

namespace registry::detail {

/// Who keeps a key.
class KeyObserver {
 public:
  virtual ~KeyObserver() = default;
  /// What was seen of the key at revision `at` of the store: null for absent.
  virtual void observed(const KeyValue* kv, std::int64_t at) = 0;
  /// The store was restored or replaced; what follows shares no history with what was observed.
  virtual void store_changed() = 0;
  /// The store was destroyed: nothing more will be observed.
  virtual void store_closed() = 0;
};

/// The keys of one service that are kept, and by whom. Keepers own the guard, not the other way round.
struct GuardedKeys {
  std::map<std::string, std::weak_ptr<KeyObserver>> keepers;

  void tell(const std::string& key, const KeyValue* kv, std::int64_t at) const {
    const auto found = keepers.find(key);
    const auto keeper = found == keepers.end() ? nullptr : found->second.lock();
    if (keeper) keeper->observed(kv, at);
  }
};

/// Turns what is followed into observations. While the follow is stale nothing is said, so nothing is
/// concluded.
class GuardSink : public RangeSink {
 public:
  explicit GuardSink(std::shared_ptr<const GuardedKeys> keys) : keys_(std::move(keys)) {}

  void begin_list() override {
    ours_.clear();
    revisions_.clear();
  }
  void list_page(Page page) override {
    for (KeyValue& kv : page.items) {
      revisions_[kv.key] = kv.mod_revision;
      if (keys_->keepers.contains(kv.key)) ours_.insert_or_assign(kv.key, std::move(kv));
    }
  }
  void end_list(std::int64_t revision) override {
    const bool changed = std::exchange(changed_, false) || revision < head_;
    head_ = revision;
    for (const auto& [key, keeper] : keepers()) {
      const auto found = ours_.find(key);
      if (changed) keeper->store_changed();
      keeper->observed(found == ours_.end() ? nullptr : &found->second, revision);
    }
    ours_.clear();
  }
  void apply(Batch batch) override {
    head_ = std::max(head_, batch.through);
    for (const Change& change : batch.changes) {
      if (change.deleted) {
        revisions_.erase(change.kv.key);
      } else {
        revisions_[change.kv.key] = change.kv.mod_revision;
      }
      keys_->tell(change.kv.key, change.deleted ? nullptr : &change.kv, change.kv.mod_revision);
    }
  }
  void fresh() override {}
  void stale(const Problem& why) override {
    changed_ = changed_ || why == errc::store_changed;
    if (why != errc::closed) return;
    for (const auto& keeper : keepers()) keeper.second->store_closed();
  }
  std::vector<std::pair<std::string, std::int64_t>> known() override {
    return {revisions_.begin(), revisions_.end()};
  }

 private:
  // A copy: what they are told may make them leave.
  std::vector<std::pair<std::string, std::shared_ptr<KeyObserver>>> keepers() const {
    std::vector<std::pair<std::string, std::shared_ptr<KeyObserver>>> alive;
    for (const auto& [key, weak] : keys_->keepers) {
      if (auto keeper = weak.lock()) alive.emplace_back(key, std::move(keeper));
    }
    return alive;
  }

  const std::shared_ptr<const GuardedKeys> keys_;
  std::map<std::string, KeyValue> ours_;           // of the list under way
  std::map<std::string, std::int64_t> revisions_;  // of the whole range
  std::int64_t head_ = 0;
  bool changed_ = false;
};

/// Lives on the strand `home`: everything is called there.
class KeyGuard {
 public:
  KeyGuard(std::shared_ptr<StoreBackend> backend, KeyLayout layout, const RegistryConfig& config,
           Observer observer, Home home)
      : backend_(std::move(backend)),
        layout_(std::move(layout)),
        observer_(std::move(observer)),
        home_(std::move(home)) {
    follow_.backoff_first = config.retry_interval;
    follow_.backoff_max = config.max_retry_interval;
  }

  /// From now on `keeper` hears of its key. Added before its first write, it misses nothing.
  void add(const std::string& service, const std::string& key, std::weak_ptr<KeyObserver> keeper) {
    Guarded& guarded = services_[service];
    if (!guarded.keys) guarded.keys = std::make_shared<GuardedKeys>();
    guarded.keys->keepers[key] = std::move(keeper);
    // One instance of 1000 must not hear of the 999 others; many instances must not watch one by one.
    const bool wide = guarded.keys->keepers.size() > 1;
    if (guarded.scope && (guarded.wide || !wide)) return;
    retire(std::move(guarded.scope));
    guarded.wide = wide;
    guarded.scope = std::make_unique<TaskScope>(home_);
    FollowConfig config = follow_;
    config.label = service;
    KeyRange range = wide ? layout_.service_range(service) : KeyRange(key);
    guarded.scope->spawn(follow(backend_, std::move(range), std::move(config), observer_,
                                std::make_shared<GuardSink>(guarded.keys)));
  }

  void remove(const std::string& service, const std::string& key) {
    const auto found = services_.find(service);
    if (found == services_.end()) return;
    found->second.keys->keepers.erase(key);
    if (!found->second.keys->keepers.empty()) return;
    retire(std::move(found->second.scope));
    services_.erase(found);
  }

  void cancel() {
    for (auto& [service, guarded] : std::exchange(services_, {})) retire(std::move(guarded.scope));
  }

  static asio::awaitable<void> join(std::shared_ptr<KeyGuard> self) {
    for (const auto& scope : std::exchange(self->retired_, {})) co_await scope->join();
  }

 private:
  struct Guarded {
    std::shared_ptr<GuardedKeys> keys;
    std::unique_ptr<TaskScope> scope;  // of its follow
    bool wide = false;                 // the whole service, not one key
  };

  void retire(std::unique_ptr<TaskScope> scope) {
    std::erase_if(retired_, [](const auto& each) { return each->size() == 0; });
    if (!scope) return;
    scope->cancel();
    retired_.push_back(std::move(scope));
  }

  const std::shared_ptr<StoreBackend> backend_;
  const KeyLayout layout_;
  const Observer observer_;
  const Home home_;
  FollowConfig follow_;
  std::map<std::string, Guarded> services_;
  std::vector<std::unique_ptr<TaskScope>> retired_;  // cancelled, and soon at their end
};

}  // namespace registry::detail
