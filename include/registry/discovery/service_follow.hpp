// One followed service: what the store says goes into the table, and from there to all who watch or view it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/home.hpp"
#include "registry/async/sleep.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/discovery/event_queue.hpp"
#include "registry/discovery/instance_table.hpp"
#include "registry/discovery/last_known_good.hpp"
#include "registry/discovery/view_state.hpp"
#include "registry/model/config.hpp"
#include "registry/model/text.hpp"
#include "registry/store/follow.hpp"

namespace registry::detail {

/// Everything runs on the home's strand. Owned by the Directory and by the coroutine that follows; it knows
/// its watchers and views weakly.
class ServiceFollow final : public RangeSink, public std::enable_shared_from_this<ServiceFollow> {
 public:
  ServiceFollow(std::string service, const KeyLayout& layout, const RegistryConfig& config, Observer observer,
                Home home)
      : service_(std::move(service)),
        table_(std::make_shared<InstanceTable>(
            service_, layout, observer,
            DisappearanceGuard(config.disappearance_limit, config.disappearance_hold))),
        observer_(std::move(observer)),
        tasks_(std::move(home)),
        file_(config.last_known_good_folder, service_, layout.service_range(service_), observer_) {}

  /// Runs follow() for this service.
  static void start(const std::shared_ptr<ServiceFollow>& self, std::shared_ptr<StoreBackend> backend,
                    KeyRange range, FollowConfig config, Observer observer) {
    self->tasks_.spawn(
        follow(std::move(backend), std::move(range), std::move(config), std::move(observer), self));
  }

  void add(const std::shared_ptr<EventQueue>& queue) {
    if (over_) return queue->close();
    if (queue->closed()) return;
    if (listed_) queue->push(table_->all());
    queues_.push_back(queue);
  }

  void add(const std::shared_ptr<ViewState>& view) {
    view->attach(table_);
    if (error_) view->failed(error_);
    if (listed_) view->changed({}, true);
    if (over_) return view->close();
    views_.push_back(view);
  }

  /// Whether somebody watches or views.
  bool used() {
    std::erase_if(queues_, [](const auto& weak) {
      const auto queue = weak.lock();
      return !queue || queue->closed();
    });
    std::erase_if(views_, [](const auto& weak) { return weak.expired(); });
    return !queues_.empty() || !views_.empty();
  }

  /// Ends it: the coroutine unwinds, generators end behind what they have, views stay as they are, stale.
  void stop() {
    tasks_.cancel();
    end();
  }

  bool over() const { return over_; }
  bool running() const { return tasks_.size() > 0; }
  asio::awaitable<void> join() { return tasks_.join(); }

  // ---- RangeSink

  void begin_list() override { table_->begin_list(); }

  void list_page(Page page) override {
    // Without stale(store_changed) before: another id, or a revision that was passed already.
    if (!store_id_.empty() && page.store_id != store_id_) same_history_ = false;
    if (page.revision < table_->revision()) same_history_ = false;
    store_id_ = page.store_id;
    table_->list_page(page, same_history_);
  }

  void end_list(std::int64_t revision) override {
    const auto changes = table_->end_list(revision, same_history_, !listed_);
    const bool first = !std::exchange(listed_, true);
    const bool was_stale = std::exchange(stale_, false);
    same_history_ = true;
    error_.clear();
    confirmed();
    publish(changes, guarded() || first || was_stale);
    save();
  }

  void apply(Batch batch) override {
    const auto changes = table_->apply(batch);
    confirmed();
    const bool released = guarded();
    if (changes.empty() && !released) return for_each(views_, [](ViewState& view) { view.confirmed(); });
    if (!changes.empty())
      observer_.count(metric::watch_events, service_, static_cast<double>(changes.size()));
    publish(changes, released);
    save();
  }

  void fresh() override {
    error_.clear();
    table_->mark_fresh();
    const bool was_stale = std::exchange(stale_, false);
    if (guarded() || was_stale) publish({}, true);
  }

  void stale(const Problem& why) override {
    error_ = why;
    if (why == errc::store_changed || why == errc::future_revision) same_history_ = false;
    if (!listed_ && why != errc::closed && (is_retryable(why) || is_indeterminate(why))) restore();
    for_each(views_, [&why](ViewState& view) { view.failed(why); });
    mark_stale();
    if (why == errc::closed) end();
  }

  std::vector<std::pair<std::string, std::int64_t>> known() override { return table_->known(); }

 private:
  void mark_stale() {
    table_->mark_stale();
    if (!std::exchange(stale_, true) && listed_) publish({}, true);
  }

  /// The store has just confirmed the list.
  void confirmed() { measure(std::chrono::system_clock::now()); }

  void measure(std::chrono::system_clock::time_point confirmed) const {
    if (over_ || !observer_.measures()) return;
    observer_.set(metric::service_instances, service_, static_cast<double>(table_->live()));
    observer_.set(metric::service_confirmed, service_,
                  std::chrono::duration<double>(confirmed.time_since_epoch()).count());
  }

  // ---- what vanished all at once

  /// Whether there is another number of held instances than at the last call. Nothing is given up while the store is
  /// out of reach.
  bool guarded() {
    if (!stale_) table_->release(std::chrono::steady_clock::now());
    const std::size_t before = std::exchange(held_, table_->held());
    if (before == held_) return false;
    observer_.set(metric::held_instances, service_, static_cast<double>(held_));
    if (before == 0) {
      observer_.log(LogLevel::Warning, quote(service_) + ": " + std::to_string(held_) +
                                           " instances vanished at once, " + std::to_string(table_->live()) +
                                           " are left: views go on showing them for now");
      tasks_.spawn(release_in_time(shared_from_this()));
    } else if (held_ == 0) {
      observer_.log(LogLevel::Info, quote(service_) + ": views show what the store says again");
    }
    return true;
  }

  static asio::awaitable<void> release_in_time(std::shared_ptr<ServiceFollow> self) {
    for (;;) {
      const auto now = std::chrono::steady_clock::now();
      const auto due = self->table_->release_due();
      if (self->held_ == 0 || (self->stale_ && due <= now)) co_return;  // fresh() looks again
      if (due <= now) {
        if (self->guarded()) self->publish({}, true);
      } else {
        co_await sleep_for(due - now);
      }
    }
  }

  // ---- the file

  /// Begins with what was known at an earlier time.
  void restore() {
    if (std::exchange(restored_, true)) return;
    auto saved = file_.load();
    if (!saved) return;
    Page page;
    page.store_id = store_id_ = saved->snapshot.store_id;
    page.revision = saved->snapshot.revision;
    for (const auto& pair : saved->snapshot.pairs) page.items.push_back(*pair);
    table_->begin_list();
    table_->list_page(page, false);
    const auto changes = table_->end_list(page.revision, false, true);
    const auto age = std::chrono::duration_cast<std::chrono::steady_clock::duration>(saved->age);
    table_->mark_stale(std::chrono::steady_clock::now() - age);
    listed_ = stale_ = true;
    measure(std::chrono::system_clock::now() - saved->age);
    observer_.log(LogLevel::Warning,
                  quote(service_) + ": the store is out of reach, beginning with " +
                      std::to_string(changes.size()) + " instances of " + quote(file_.file(), 4096) + ", " +
                      std::to_string(std::chrono::duration_cast<std::chrono::seconds>(age).count()) +
                      " s old");
    publish(changes, true);
  }

  /// Soon: changes come in bursts.
  void save() {
    if (!file_ || std::exchange(save_due_, true)) return;
    tasks_.spawn(save_soon(shared_from_this()));
  }

  static asio::awaitable<void> save_soon(std::shared_ptr<ServiceFollow> self) {
    co_await sleep_for(std::chrono::seconds(1));
    self->save_now();
  }

  /// What is held back from the views is not known to be good.
  void save_now() {
    if (!std::exchange(save_due_, false) || held_ > 0) return;
    StoreSnapshot snapshot;
    snapshot.store_id = store_id_;
    snapshot.revision = table_->revision();
    snapshot.pairs = table_->pairs();
    file_.save(snapshot);
  }

  void publish(const std::vector<InstanceChange>& changes, bool all_views) {
    if (!changes.empty()) for_each(queues_, [&](EventQueue& queue) { queue.push(changes); });
    for_each(views_, [&](ViewState& view) { view.changed(changes, all_views); });
  }

  void end() {
    if (std::exchange(over_, true)) return;
    save_now();
    mark_stale();
    // Followed no longer: neither its size nor its age means anything from here on.
    for (const Metric& gauge : {metric::service_instances, metric::held_instances, metric::service_confirmed})
      if (listed_) observer_.set(gauge, service_, std::numeric_limits<double>::quiet_NaN());
    for_each(queues_, [](EventQueue& queue) { queue.close(); });
    for_each(views_, [](ViewState& view) { view.close(); });
  }

  template <class T, class Action>
  static void for_each(const std::vector<std::weak_ptr<T>>& all, Action action) {
    for (const auto& weak : all) {
      if (const auto one = weak.lock()) action(*one);
    }
  }

  const std::string service_;
  const std::shared_ptr<InstanceTable> table_;  // shared with views, which may outlive the follow
  Observer observer_;
  TaskScope tasks_;
  std::vector<std::weak_ptr<EventQueue>> queues_;
  std::vector<std::weak_ptr<ViewState>> views_;
  std::string store_id_;
  bool same_history_ = true;  // of the next list with what is known
  bool listed_ = false;
  bool stale_ = false;
  bool over_ = false;
  LastKnownGood file_;
  bool restored_ = false;  // or tried to
  bool save_due_ = false;
  std::size_t held_ = 0;  // as views were told
  Problem error_;         // why the store is out of reach
};

}  // namespace registry::detail
