// The actors of a client.
#include "soak/client.hpp"

#include <asio/co_spawn.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <exception>
#include <system_error>
#include <thread>
#include <utility>

#include "rig/run.hpp"

namespace soak {

using namespace registry;
using namespace std::chrono_literals;

namespace {

asio::awaitable<void> nap(std::chrono::milliseconds time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(asio::use_awaitable);
}

ServiceFilter filter_of(const std::string& version) {
  ServiceFilter filter;
  if (!version.empty()) filter.version(version);
  return filter;
}

Seen seen_of(KeyNames& names, const ServiceEvent& event) {
  Seen seen;
  seen.revision = event.revision;
  seen.key = names.id(event.service.name, event.service.id);
  seen.content = content_of(event.service);
  seen.deleted = event.type == EventType::Delete;
  seen.resynced = event.resynced;
  return seen;
}

std::uint64_t sum_of(const ServiceSnapshot& list) {
  std::uint64_t sum = list.instances.size();
  for (const auto& each : list.instances) sum += content_of(*each) * 0x9e3779b97f4a7c15u;
  return sum;
}

// A backoff short enough to be seen often.
RegistryConfig registry_config() {
  RegistryConfig config;
  config.retry_interval = 100ms;
  config.max_retry_interval = 1000ms;
  return config;
}

etcd::ConnectorConfig connector_config(const std::vector<std::unique_ptr<rig::Gate>>& gates) {
  etcd::ConnectorConfig config;
  config.endpoints.clear();
  for (const auto& gate : gates) config.endpoints.push_back(gate->endpoint());
  config.username = "svc";
  config.password = "pw";
  config.ping_interval = 6s;
  config.ping_timeout = 2s;
  return config;
}

}  // namespace

std::uint64_t sum_of(const State& state) {
  std::uint64_t sum = state.size();
  for (const auto& [key, what] : state) sum += what.second * 0x9e3779b97f4a7c15u;
  return sum;
}

Client::Client(Stage& stage, asio::thread_pool& pool, std::size_t number,
               const std::vector<std::string>& members, std::size_t instances)
    : stage_(stage),
      pool_(pool),
      name_("client " + std::to_string(number)),
      service_("registered-" + std::to_string(number)),
      ears_(std::make_shared<Ears>(stage.journal, name_)),
      range_(std::make_shared<RangeRecorder>(stage.names, stage.journal)) {
  for (const auto& member : members) gates.push_back(std::make_unique<rig::Gate>(member));
  const Observer observer(ears_, ears_);
  store_.emplace(pool.get_executor(), connector_config(gates), observer);
  registry_.emplace(*store_, registry_config(), observer);
  for (std::size_t i = 0; i < instances; ++i) {
    auto slot = std::make_shared<Slot>();
    slot->service = service_;
    slot->id = "r" + std::to_string(number) + "-" + std::to_string(i);
    slot->ttl = std::chrono::seconds(5 + i % 6);
    slots_.push_back(std::move(slot));
  }
}

Client::~Client() = default;

template <class Work>
void Client::spawn(Work work, std::atomic<int>& count) {
  ++count;
  asio::co_spawn(pool_, std::move(work), [this, &count](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const std::exception& what) {
      stage_.journal.violation(name_ + ": an actor ended with " + what.what());
    }
    --count;
  });
}

bool Client::tolerable(const std::system_error& error, const std::string& what) {
  stage_.journal.line(name_ + ": " + what + ": " + error.what());
  if (is_retryable(error.code()) || is_indeterminate(error.code())) return true;
  stage_.journal.violation(name_ + ": " + what + " failed with " + error.what());
  return false;
}

void Client::start() {
  spawn(listen(), consuming_);
  std::vector<std::string> services = stage_.written;
  services.push_back("registered-0");
  services.push_back("registered-1");
  for (const auto& service : services) {
    watch(service, {}, false);
    spawn(subscribe(service, {}), busy_);
  }
  watch(stage_.written[0], {}, true);
  watch(stage_.written[1], "v2", false);
  watch(stage_.written[1], "v2", true);
  spawn(subscribe(stage_.written[1], "v2"), busy_);
  std::seed_seq mix{stage_.seed, std::uint64_t(name_.back())};
  std::vector<std::uint32_t> seeds(slots_.size() + 1);
  mix.generate(seeds.begin(), seeds.end());
  for (std::size_t i = 0; i < slots_.size(); ++i) spawn(keep(slots_[i], seeds[i]), busy_);
  spawn(churn(seeds.back()), busy_);

  detail::FollowConfig config;
  config.backoff_first = 100ms;
  config.backoff_max = 1000ms;
  config.page_size = 37;
  config.label = "all";
  const KeyLayout layout("/genesis/services", "");
  auto follow = detail::follow(store_->backend(), layout.all_range(), std::move(config),
                               Observer(ears_, ears_), range_);
  ++consuming_;
  asio::co_spawn(asio::make_strand(pool_), std::move(follow), [this](std::exception_ptr error) {
    if (error) stage_.journal.violation(name_ + ": the low-level follow ended by an exception");
    --consuming_;
  });
}

asio::awaitable<void> Client::keep(std::shared_ptr<Slot> slot, std::uint64_t seed) {
  std::mt19937_64 draw(seed);
  while (!stage_.stop) {
    const auto end =
        Clock::now() + std::chrono::milliseconds(slot->wanted ? 300 + draw() % 8000 : draw() % 2000);
    while (Clock::now() < end && !stage_.stop) co_await nap(50ms);
    if (stage_.stop) break;
    std::string what;
    const ServiceInstance instance = stage_.make(slot->service, slot->id, draw());
    ++stage_.operations;
    try {
      if (!slot->wanted) {
        what = "register " + slot->id;
        co_await registry_->register_instance(instance, slot->ttl);
        slot->wanted = true;
        slot->content = content_of(instance);
      } else if (draw() % 3 == 0) {
        what = "deregister " + slot->id;
        slot->wanted = false;
        co_await registry_->deregister(slot->id);
      } else {
        what = "update " + slot->id;
        const auto before = std::exchange(slot->content, content_of(instance));
        try {
          co_await registry_->update_instance(instance);
        } catch (const std::system_error& error) {
          // Out of reach: the new value stays wanted. Refused: the old one stays.
          if (!is_retryable(error.code()) && !is_indeterminate(error.code())) slot->content = before;
          throw;
        }
      }
    } catch (const std::system_error& error) {
      tolerable(error, what);
    }
  }
}

asio::awaitable<void> Client::churn(std::uint64_t seed) {
  std::mt19937_64 draw(seed);
  while (!stage_.stop) {
    const std::string service = stage_.written[draw() % stage_.written.size()];
    const std::string version = draw() % 3 == 0 ? "v2" : "";
    auto recording = std::make_shared<Recording>(service, version, false, false);
    {
      Generator<ServiceEvent> events = registry_->watch(service, filter_of(version));
      const auto end = Clock::now() + std::chrono::milliseconds(draw() % 3000);
      while (Clock::now() < end && recording->log.size() < 300 && !stage_.stop) {
        while (auto event = events.try_next()) recording->log.push_back(seen_of(stage_.names, *event));
        co_await nap(20ms);
      }
    }
    recording->ended = true;
    {
      const std::lock_guard lock(mutex_);
      recordings_.push_back(recording);
    }
    try {
      ++stage_.operations;
      const ServiceView view = co_await registry_->subscribe(service, filter_of(version));
      const auto list = view.snapshot();
      Sampled one;
      one.service = service;
      one.version = version;
      one.lists.emplace_back(list->revision, sum_of(*list));
      passing_.push_back(std::move(one));
    } catch (const std::system_error& error) {
      tolerable(error, "subscribe " + service);
    }
  }
}

asio::awaitable<void> Client::listen() {
  Generator<RegistrationEvent> events = registry_->registration_events();
  while (auto event = co_await events.next()) {
    Told told;
    told.state = event->state;
    told.at = Clock::now();
    told.reason = event->reason;
    static constexpr const char* names[] = {"registered", "lost", "restored", "displaced", "closed"};
    stage_.journal.line(name_ + ": " + event->id + " " + names[static_cast<int>(told.state)] +
                        (told.reason ? ": " + told.reason.message() : ""));
    const std::lock_guard lock(mutex_);
    told_[event->id].push_back(told);
  }
}

asio::awaitable<void> Client::subscribe(std::string service, std::string version) {
  while (!stage_.stop) {
    try {
      Sampled sampled;
      sampled.view = co_await registry_->subscribe(service, filter_of(version));
      sampled.service = std::move(service);
      sampled.version = std::move(version);
      const std::lock_guard lock(mutex_);
      new_views_.push_back(std::move(sampled));
      co_return;
    } catch (const std::system_error& error) {
      tolerable(error, "subscribe " + service);
    }
  }
}

void Client::watch(const std::string& service, const std::string& version, bool slow) {
  auto recording = std::make_shared<Recording>(service, version, slow, true);
  spawn(record(&stage_, registry_->watch(service, filter_of(version)), recording), consuming_);
  const std::lock_guard lock(mutex_);
  recordings_.push_back(std::move(recording));
}

asio::awaitable<void> Client::record(Stage* stage, Generator<ServiceEvent> events,
                                     std::shared_ptr<Recording> to) {
  while (auto event = co_await events.next()) {
    {
      const Seen seen = seen_of(stage->names, *event);
      const std::lock_guard lock(to->mutex);
      to->log.push_back(seen);
    }
    ++stage->events;
    if (to->slow && !stage->hurry) co_await nap(100ms);
  }
  const std::lock_guard lock(to->mutex);
  to->ended = true;
}

void Client::sample() {
  {
    const std::lock_guard lock(mutex_);
    for (auto& each : new_views_) views_.push_back(std::move(each));
    new_views_.clear();
  }
  for (auto& each : views_) {
    const auto list = each.view.snapshot();
    ++stage_.samples;
    if (list->revision == each.last) continue;
    if (list->revision < each.last) {
      stage_.journal.violation(name_ + ": the view of " + each.service + " went back from " +
                               std::to_string(each.last) + " to " + std::to_string(list->revision));
    }
    each.last = list->revision;
    each.lists.emplace_back(list->revision, sum_of(*list));
  }
}

void Client::close() {
  rig::run(pool_, registry_->close());
  rig::run(pool_, store_->close());
  const auto end = Clock::now() + 20s;
  while (consuming_ > 0 && Clock::now() < end) std::this_thread::sleep_for(5ms);
  if (consuming_ > 0) stage_.journal.violation(name_ + ": generators do not end with close()");
  for (auto& each : views_) each.view = ServiceView();
  registry_.reset();
  store_.reset();
}

std::vector<std::shared_ptr<Recording>> Client::recordings() const {
  const std::lock_guard lock(mutex_);
  return recordings_;
}

std::map<std::string, std::vector<Told>> Client::told() const {
  const std::lock_guard lock(mutex_);
  return told_;
}

std::size_t Client::bytes() const {
  std::size_t bytes = range_->changes() * sizeof(Seen);
  for (const auto& each : recordings()) {
    const std::lock_guard lock(each->mutex);
    bytes += each->log.capacity() * sizeof(Seen);
  }
  for (const auto& each : views_) bytes += each.lists.capacity() * sizeof(each.lists[0]);
  return bytes;
}

// ---- RangeRecorder

namespace {
const KeyLayout& layout() {
  static const KeyLayout all("/genesis/services", "");
  return all;
}
}  // namespace

void RangeRecorder::begin_list() {
  listing_.clear();
  listing_known_.clear();
}

void RangeRecorder::list_page(Page page) {
  for (const auto& pair : page.items) {
    listing_known_[pair.key] = pair.mod_revision;
    const auto key = layout().parse(pair.key);
    if (!key) continue;  // the oracle's mark
    const auto decoded = decode(pair.value, key->service, key->id);
    listing_[names_.id(std::string(key->service), std::string(key->id))] = {pair.mod_revision,
                                                                            content_of(decoded.instance)};
  }
}

void RangeRecorder::end_list(std::int64_t revision) {
  if (revision < through_)
    journal_.violation("low-level follow: a list goes back to " + std::to_string(revision));
  through_ = revision;
  known_ = listing_known_;
  const std::lock_guard lock(mutex_);
  Section section;
  section.revision = revision;
  section.list = listing_;
  sections_.push_back(std::move(section));
}

void RangeRecorder::apply(Batch batch) {
  if (batch.through < through_) {
    journal_.violation("low-level follow: a batch through " + std::to_string(batch.through) +
                       " comes behind " + std::to_string(through_));
  }
  const std::lock_guard lock(mutex_);
  for (const auto& change : batch.changes) {
    if (change.kv.mod_revision <= through_ || change.kv.mod_revision > batch.through)
      journal_.violation("low-level follow: a revision is split at " +
                         std::to_string(change.kv.mod_revision));
    if (change.deleted)
      known_.erase(change.kv.key);
    else
      known_[change.kv.key] = change.kv.mod_revision;
    const auto key = layout().parse(change.kv.key);
    if (!key) continue;
    Seen seen;
    seen.revision = change.kv.mod_revision;
    seen.key = names_.id(std::string(key->service), std::string(key->id));
    seen.deleted = change.deleted;
    if (!change.deleted) {
      const auto decoded = decode(change.kv.value, key->service, key->id);
      seen.content = content_of(decoded.instance);
    }
    sections_.back().changes.push_back(seen);
  }
  through_ = batch.through;
}

std::vector<std::pair<std::string, std::int64_t>> RangeRecorder::known() {
  return std::vector<std::pair<std::string, std::int64_t>>(known_.begin(), known_.end());
}

std::string RangeRecorder::compare(const Effects& truth, std::int64_t end) const {
  const std::lock_guard lock(mutex_);
  std::size_t place = 0;
  for (const auto& section : sections_) {
    if (section.revision > end) break;
    if (truth.at(section.revision) != section.list)
      return "the list at " + std::to_string(section.revision) + " is not the state of that revision";
    place = truth.behind(section.revision);
    for (Seen seen : section.changes) {
      if (seen.revision > end) break;
      if (place == truth.all().size())
        return "an event of " + std::to_string(seen.revision) + " never happened";
      const Seen& wanted = truth.all()[place++];
      if (seen.deleted) seen.content = wanted.content;
      if (!seen.same(wanted))
        return "at " + std::to_string(seen.revision) + " " + names_.text(seen.key) +
               " stands where the truth has " + names_.text(wanted.key) + " at " +
               std::to_string(wanted.revision);
    }
  }
  if (sections_.empty()) return "was never told anything";
  if (place != truth.all().size())
    return "ends before " + names_.text(truth.all()[place].key) + " at " +
           std::to_string(truth.all()[place].revision);
  return "";
}

std::size_t RangeRecorder::lists() const {
  const std::lock_guard lock(mutex_);
  return sections_.size();
}

std::size_t RangeRecorder::changes() const {
  const std::lock_guard lock(mutex_);
  std::size_t count = 0;
  for (const auto& each : sections_) count += each.changes.size() + each.list.size();
  return count;
}

}  // namespace soak
