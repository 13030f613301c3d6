// One followed service: what the store says goes into the table, and from there to all who watch or view it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/home.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/discovery/event_queue.hpp"
#include "registry/discovery/instance_table.hpp"
#include "registry/discovery/view_state.hpp"
#include "registry/store/follow.hpp"

namespace registry::detail {

/// Everything runs on the home's strand. Owned by the Directory and by the coroutine that follows; it knows
/// its watchers and views weakly.
class ServiceFollow final : public RangeSink {
 public:
  ServiceFollow(std::string service, const KeyLayout& layout, Observer observer, Home home)
      : service_(std::move(service)),
        table_(std::make_shared<InstanceTable>(service_, layout, observer)),
        observer_(std::move(observer)),
        tasks_(std::move(home)) {}

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
    measure(changes);
    publish(changes, first || was_stale);
  }

  void apply(Batch batch) override {
    const auto changes = table_->apply(batch);
    measure(changes);
    if (changes.empty()) return for_each(views_, [](ViewState& view) { view.confirmed(); });
    observer_.count(metric::watch_events, service_, static_cast<double>(changes.size()));
    publish(changes, false);
  }

  void fresh() override {
    error_.clear();
    table_->mark_stale(false);
    if (std::exchange(stale_, false)) publish({}, true);
  }

  void stale(const Problem& why) override {
    error_ = why;
    if (why == errc::store_changed || why == errc::future_revision) same_history_ = false;
    for_each(views_, [&why](ViewState& view) { view.failed(why); });
    mark_stale();
    if (why == errc::closed) end();
  }

  std::vector<std::pair<std::string, std::int64_t>> known() override { return table_->known(); }

 private:
  void mark_stale() {
    table_->mark_stale(true);
    if (!std::exchange(stale_, true) && listed_) publish({}, true);
  }

  /// The store has just confirmed the list, with these changes.
  void measure(const std::vector<InstanceChange>& changes) {
    if (!observer_.measures()) return;
    for (const InstanceChange& change : changes)
      instances_ += (change.after ? 1 : 0) - (change.before ? 1 : 0);
    observer_.set(metric::service_instances, service_, instances_);
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    observer_.set(metric::service_confirmed, service_, std::chrono::duration<double>(now).count());
  }

  void publish(const std::vector<InstanceChange>& changes, bool all_views) {
    if (!changes.empty()) for_each(queues_, [&](EventQueue& queue) { queue.push(changes); });
    for_each(views_, [&](ViewState& view) { view.changed(changes, all_views); });
  }

  void end() {
    if (std::exchange(over_, true)) return;
    mark_stale();
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
  int instances_ = 0;
  Problem error_;  // why the store is out of reach
};

}  // namespace registry::detail
