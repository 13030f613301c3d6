// Discovery in a store: reading services, watching them, live views. All watchers and views of a service
// share one watch of the store.
#pragma once

#include <asio/awaitable.hpp>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "registry/async/home.hpp"
#include "registry/async/on.hpp"
#include "registry/discovery/event_queue.hpp"
#include "registry/discovery/read.hpp"
#include "registry/discovery/service_follow.hpp"
#include "registry/discovery/service_view.hpp"
#include "registry/model/config.hpp"
#include "registry/model/keys.hpp"
#include "registry/model/text.hpp"

namespace registry::detail {

/// The discovery half of a Registry's core. Service names are valid already. The public coroutines are static
/// and hold the core; `cancel` and the private members run on the home's strand.
class Directory : public std::enable_shared_from_this<Directory> {
 public:
  /// From how many queued events on a watcher's queue folds.
  static constexpr std::size_t watch_queue = 1024;
  /// How long subscribe() waits for the first list.
  static constexpr std::chrono::milliseconds subscribe_patience{3000};

  Directory(std::shared_ptr<StoreBackend> backend, KeyLayout layout, const RegistryConfig& config,
            Observer observer, Home home)
      : backend_(std::move(backend)),
        layout_(std::move(layout)),
        config_(config),
        observer_(std::move(observer)),
        home_(std::move(home)) {
    follow_.backoff_first = config.retry_interval;
    follow_.backoff_max = config.max_retry_interval;
  }

  /// Whoever forgets cancel() leaves no coroutine behind, either.
  ~Directory() {
    if (services_.empty()) return;
    home_.post([services = std::move(services_)] {
      for (const auto& [name, service] : services) service->stop();
    });
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  /// The instances, read from the store now. Any executor.
  static asio::awaitable<std::vector<ServiceInstance>> get(std::shared_ptr<Directory> core, std::string name,
                                                           ServiceFilter filter) {
    if (core->closed_) fail(errc::closed);
    ValueReader reader(core->layout_, core->observer_);
    co_return co_await read_service(core->backend_, core->layout_.service_range(name), std::move(reader),
                                    std::move(filter));
  }

  /// The names of the services there are, sorted. Any executor.
  static asio::awaitable<std::vector<std::string>> list_services(std::shared_ptr<Directory> core) {
    if (core->closed_) fail(errc::closed);
    co_return co_await read_services(core->backend_, core->layout_);
  }

  /// Events from the first `next()` on. Any thread.
  static Generator<ServiceEvent> watch(const std::shared_ptr<Directory>& core, std::string name,
                                       ServiceFilter filter, std::size_t queue_limit = watch_queue) {
    auto queue = std::make_shared<EventQueue>(std::move(filter), queue_limit);
    // Weak both ways: a generator keeps neither the core alive nor itself.
    queue->on_gone(sweeper(core, name));
    queue->on_start([home = core->home_, weak = std::weak_ptr(core), to = std::weak_ptr(queue), name] {
      const auto started = to.lock();
      if (!started) return;
      const bool posted = home.post([weak, started, name] {
        const auto alive = weak.lock();
        if (alive && !alive->closed_) {
          alive->followed(name).add(started);
          if (started->closed()) alive->sweep(name);  // its consumer is gone already
        } else {
          started->close();
        }
      });
      if (!posted) started->close();
    });
    return Generator<ServiceEvent>(std::move(queue));
  }

  /// Resolves when the first list is loaded. Throws the last error if that takes longer than `patience`, at once if
  /// trying again is no use. A first read that is still under way is waited for: the store ends it in its own time, and
  /// only then there is something to say.
  static asio::awaitable<ServiceView> subscribe(std::shared_ptr<Directory> core, std::string name,
                                                ServiceFilter filter,
                                                std::chrono::milliseconds patience = subscribe_patience) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    auto view = std::make_shared<ViewState>(std::move(filter));
    view->on_gone(sweeper(core, name));
    const ViewState::Waiting waiting(view);
    co_await on(core->home_, attach(core, name, view));
    while (view->version() == 0) {
      Problem error = view->error();
      if (view->closed()) fail(errc::closed);
      const bool hopeless = error.category() == registry_category() && error && !is_retryable(error);
      const bool late = std::chrono::steady_clock::now() >= deadline;
      if (hopeless || (late && error)) error.raise("subscribe " + quote(name));
      if (late) {
        co_await waiting.signal().wait();
      } else {
        co_await waiting.signal().wait_until(deadline);
      }
    }
    co_return ServiceView(view);
  }

  /// Ends every generator and view, and all that runs. On the strand; idempotent.
  void cancel() {
    if (closed_.exchange(true)) return;
    for (auto& [name, service] : services_) retire(std::move(service));
    services_.clear();
  }

  /// After cancel(): until nothing runs any more. One caller at a time.
  static asio::awaitable<void> join(std::shared_ptr<Directory> core) {
    const Home home = core->home_;
    co_await on(home, join_here(std::move(core)));
  }

  /// How many services are followed. On the strand.
  std::size_t followed_services() const { return services_.size(); }

 private:
  static std::function<void()> sweeper(const std::shared_ptr<Directory>& core, const std::string& name) {
    return [home = core->home_, weak = std::weak_ptr(core), name] {
      home.post([weak, name] {
        if (const auto alive = weak.lock()) alive->sweep(name);
      });
    };
  }

  static asio::awaitable<void> attach(std::shared_ptr<Directory> core, std::string name,
                                      std::shared_ptr<ViewState> view) {
    if (core->closed_) fail(errc::closed);
    core->followed(name).add(view);
    co_return;
  }

  static asio::awaitable<void> join_here(std::shared_ptr<Directory> core) {
    while (!core->ending_.empty()) {
      const auto service = core->ending_.back();
      co_await service->join();
      std::erase(core->ending_, service);
    }
  }

  ServiceFollow& followed(const std::string& name) {
    auto& service = services_[name];
    if (!service || service->over()) {
      service = std::make_shared<ServiceFollow>(name, layout_, config_, observer_, home_);
      FollowConfig config = follow_;
      config.label = name;
      ServiceFollow::start(service, backend_, layout_.service_range(name), std::move(config), observer_);
    }
    return *service;
  }

  /// Ends the follow of a service that nobody watches or views any more.
  void sweep(const std::string& name) {
    const auto found = services_.find(name);
    if (found == services_.end() || found->second->used()) return;
    retire(std::move(found->second));
    services_.erase(found);
  }

  void retire(std::shared_ptr<ServiceFollow> service) {
    service->stop();
    std::erase_if(ending_, [](const auto& each) { return !each->running(); });
    if (service->running()) ending_.push_back(std::move(service));
  }

  const std::shared_ptr<StoreBackend> backend_;
  const KeyLayout layout_;
  const RegistryConfig config_;
  const Observer observer_;
  const Home home_;
  FollowConfig follow_;
  std::atomic<bool> closed_{false};
  std::map<std::string, std::shared_ptr<ServiceFollow>> services_;
  std::vector<std::shared_ptr<ServiceFollow>> ending_;  // cancelled, still unwinding
};

}  // namespace registry::detail
