// One stream to each instance of a service, kept so while instances come, fail, move and go.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/this_coro.hpp>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "registry/async/clock.hpp"
#include "registry/async/home.hpp"
#include "registry/async/on.hpp"
#include "registry/async/signal.hpp"
#include "registry/discovery/service_view.hpp"
#include "registry/facade/registry.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/filter.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/limits.hpp"
#include "registry/model/text.hpp"
#include "registry/model/validate.hpp"
#include "registry/observe/observer.hpp"
#include "registry/policy/stream_plan.hpp"
#include "registry/rpc/grpc_endpoints.hpp"

namespace registry {

/// The settings of a StreamManager. `Stream` is whatever `factory` makes: a BidiStream, or a type of yours around
/// one.
template <class Stream>
struct StreamManagerConfig {
  /// Opens a stream: see `factory`.
  using Factory = std::function<asio::awaitable<std::shared_ptr<Stream>>(std::shared_ptr<grpc::Channel>,
                                                                         const ServiceInstance&)>;

  /// Whose instances.
  std::string service_name;
  /// Null: insecure.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  /// Opens a stream over a channel to this instance alone. What it throws, or a null stream, means failed. The
  /// stream is in `streams()` once it has returned: await there whatever makes it usable (a first answer), since
  /// a gRPC call that has begun is not yet connected. The instance stays valid while it runs. It runs on the
  /// manager's strand, must not block, and is cancelled when the stream is no longer wanted.
  Factory factory;
  /// Returns (or throws) when the stream has ended. Cancelled when the stream is closed before. Default: the
  /// stream's own `wait_ended()`, which a BidiStream has.
  std::function<asio::awaitable<void>(Stream&)> ended;
  /// Called once for each stream that leaves `streams()`, on the manager's strand; throws nothing. Default: the
  /// stream's own `cancel()`, if it has one. A `writes_done()` here instead lets servers finish what they are about.
  std::function<void(Stream&)> close;
  /// Only instances that pass.
  ServiceFilter filter;
  /// The first and the longest step of the backoff between tries of one instance. 1 ms to 24 h.
  std::chrono::milliseconds retry_interval{1000}, max_retry_interval{30000};
  /// How long `factory` may take. 1 ms to 24 h.
  std::chrono::milliseconds open_timeout{10000};
  /// For the channels.
  grpc::ChannelArguments channel_arguments;

  /// The defaults, with a BidiStream's `wait_ended()` and `cancel()` where `Stream` has those.
  /// `service_name` and `factory` must be set.
  StreamManagerConfig() {
    if constexpr (requires(Stream& stream) { stream.wait_ended(); }) {
      ended = [](Stream& stream) -> asio::awaitable<void> { return stream.wait_ended(); };
    }
    if constexpr (requires(Stream& stream) { stream.cancel(); }) {
      close = [](Stream& stream) { stream.cancel(); };
    }
  }
  /// These three, and the defaults.
  StreamManagerConfig(std::string service, std::shared_ptr<grpc::ChannelCredentials> how, Factory open)
      : StreamManagerConfig() {
    service_name = std::move(service);
    credentials = std::move(how);
    factory = std::move(open);
  }
};

/// Whether a StreamManager can be made with these settings. Throws `invalid_argument` that names the field.
template <class Stream>
void validate(const StreamManagerConfig<Stream>& config) {
  using namespace detail;
  using std::chrono::milliseconds;
  validate_service_name(config.service_name);
  if (!config.factory) reject("factory", "(none)", "give a function that opens a stream");
  if (!config.ended) reject("ended", "(none)", "give a function that waits for the end of a stream");
  for (const auto& [field, value] : {std::pair("retry_interval", config.retry_interval),
                                     std::pair("max_retry_interval", config.max_retry_interval),
                                     std::pair("open_timeout", config.open_timeout)}) {
    if (value < milliseconds(1) || value > max_duration) reject(field, shown(value), "use 1 ms to 24 h");
  }
  if (config.max_retry_interval < config.retry_interval) {
    reject("max_retry_interval", shown(config.max_retry_interval),
           "must not be below retry_interval (" + shown(config.retry_interval) + ")");
  }
}

/// Keeps one stream to each instance of a service: opened when the instance comes, opened again with exponential,
/// jittered backoff when it ends or cannot be opened, at the new address when the instance moves, closed when it
/// goes. An instance that is disabled has no stream. One that drains gets no new one and keeps the one it has
/// until that ends by itself. While the store is out of reach the streams stay as they are, and are re-opened at
/// the addresses known last.
///
/// Each try has a channel of its own, to one instance, that shares no connection with others: a try is not held
/// up by gRPC's own reconnect backoff. Of several endpoints the first that works is used: those that say grpc://,
/// or else those without a scheme.
///
/// A handle: destroying it closes the streams soon and waits for nothing; `stop()` waits. It borrows the
/// Registry, which is needed until `start()` was called. When the Registry is closed all streams are closed.
///
/// Thread safety: every member may be called from any thread. Everything runs on a strand of the executor that start()
/// was awaited on. The manager, the Registry and the execution context may be destroyed in any order.
template <class Stream>
class StreamManager {
 public:
  /// Throws `invalid_argument` for a bad setting.
  StreamManager(Registry& registry, StreamManagerConfig<Stream> config, Observer observer = Observer())
      : registry_(&registry),
        core_(std::make_shared<Core>(checked(std::move(config)), std::move(observer))) {}

  ~StreamManager() { shut(core_); }
  StreamManager(StreamManager&&) noexcept = default;
  /// Swaps: what this manager was lives on in `other`. One that was moved from may only be destroyed or
  /// assigned to.
  StreamManager& operator=(StreamManager&& other) noexcept {
    std::swap(registry_, other.registry_);
    std::swap(core_, other.core_);
    return *this;
  }

  /// Reads the list of instances and begins to open their streams; does not wait for those. Errors: as
  /// Registry::subscribe, then it may be called again; `closed` after stop(). Does nothing when started already.
  /// Cancellation: throws `operation_aborted`, not started.
  asio::awaitable<void> start() {
    const StreamManagerConfig<Stream>& config = core_->config;
    return start_on(core_, registry_->subscribe(config.service_name, config.filter));
  }

  /// The streams that are open now, by instance id. A stream may have ended since. Holding on to one does not
  /// keep it open.
  std::map<std::string, std::shared_ptr<Stream>> streams() const {
    const std::lock_guard lock(core_->mutex);
    return core_->open;
  }

  /// Closes all streams and returns when nothing runs any more, which a factory that ignores its cancellation
  /// delays. Final and idempotent. Throws no error of a stream. Cancellation: throws `operation_aborted`; the closing goes on.
  asio::awaitable<void> stop() { return stop_on(core_); }

 private:
  using StreamPtr = std::shared_ptr<Stream>;
  using InstancePtr = std::shared_ptr<const ServiceInstance>;
  enum class State { Idle, Starting, Running, Stopped };

  /// One stream, from the first step of its opening until its coroutine is gone.
  struct Running {
    explicit Running(InstancePtr to) : instance(std::move(to)) {}
    InstancePtr instance;
    StreamPtr stream;      // while it is in `open`
    bool closing = false;  // it ends because we want it to
    asio::cancellation_signal cancel;
  };

  struct Core {
    Core(StreamManagerConfig<Stream> settings, Observer watching)
        : config(std::move(settings)),
          observer(std::move(watching)),
          plan(config.retry_interval, config.max_retry_interval, config.open_timeout) {}

    const StreamManagerConfig<Stream> config;
    const Observer observer;

    mutable std::mutex mutex;
    std::map<std::string, StreamPtr> open;
    State state = State::Idle;
    detail::Home home;  // set once, before Running

    // On the home.
    StreamPlan plan;
    detail::Random random;
    std::map<std::uint64_t, std::shared_ptr<Running>> running;
    asio::cancellation_signal stop_following, stop_clock;
    int loops = 0;
    detail::Signal wake;               // of the clock
    std::vector<detail::Signal> idle;  // of those who wait for the end
    bool over = false;
  };
  using CorePtr = std::shared_ptr<Core>;

  static StreamManagerConfig<Stream> checked(StreamManagerConfig<Stream> config) {
    validate(config);
    return config;
  }

  static std::chrono::steady_clock::time_point now() { return std::chrono::steady_clock::now(); }

  // ---- any executor

  /// Back to Idle when a start does not succeed.
  struct Attempt {
    explicit Attempt(CorePtr manager) : core(std::move(manager)) {}
    ~Attempt() {
      const std::lock_guard lock(core->mutex);
      if (core->state == State::Starting) core->state = State::Idle;
    }
    CorePtr core;
  };

  static asio::awaitable<void> start_on(CorePtr core, asio::awaitable<ServiceView> subscribing) {
    {
      const std::lock_guard lock(core->mutex);
      if (core->state == State::Stopped) detail::fail(errc::closed);
      if (core->state != State::Idle) co_return;
      core->state = State::Starting;
    }
    const Attempt attempt(core);
    ServiceView view = co_await std::move(subscribing);
    const detail::Home home = detail::Home::strand(co_await asio::this_coro::executor);
    {
      const std::lock_guard lock(core->mutex);
      if (core->state == State::Stopped) detail::fail(errc::closed);
      core->home = home;
      core->state = State::Running;
    }
    home.post([core, view] { begin(core, view); });
  }

  static asio::awaitable<void> stop_on(CorePtr core) {
    const detail::Home home = shut(core);
    if (home.executor()) co_await detail::on(home, join(core));
  }

  /// Any thread. Returns where there is something to wait for.
  static detail::Home shut(const CorePtr& core) noexcept {
    if (!core) return detail::Home();
    const std::lock_guard lock(core->mutex);
    const State before = std::exchange(core->state, State::Stopped);
    if (before == State::Running) core->home.post([core] { end(*core); });
    return core->home;
  }

  // ---- on the home

  static void begin(const CorePtr& core, ServiceView view) {
    if (core->over) return;
    core->loops = 2;
    const auto finished = [core](std::exception_ptr) {
      --core->loops;
      notify(*core);
    };
    core->home.spawn(follow(core, std::move(view)),
                     asio::bind_cancellation_slot(core->stop_following.slot(), finished));
    core->home.spawn(watch_clock(core), asio::bind_cancellation_slot(core->stop_clock.slot(), finished));
  }

  static void end(Core& core) {
    core.over = true;
    core.stop_following.emit(asio::cancellation_type::terminal);
    core.stop_clock.emit(asio::cancellation_type::terminal);
    for (const StreamAction& action : core.plan.close()) close(core, action.stream);
    notify(core);
  }

  static void notify(const Core& core) {
    for (const detail::Signal& waiting : core.idle) waiting.raise();
  }

  static asio::awaitable<void> join(CorePtr core) {
    const detail::Signal done;
    core->idle.push_back(done);
    while (!core->over || core->loops != 0 || !core->running.empty()) co_await done.wait();
  }

  /// Tells the plan who is there, until the Registry is closed.
  static asio::awaitable<void> follow(CorePtr core, ServiceView view) {
    for (;;) {
      std::shared_ptr<const ServiceSnapshot> list;
      try {
        list = co_await view.next();
      } catch (const std::system_error& error) {
        if (error.code() == errc::closed) perform(core, core->plan.close());
        co_return;
      }
      std::vector<StreamPeer> peers;
      peers.reserve(list->instances.size());
      for (const InstancePtr& instance : list->instances) {
        std::vector<std::string> targets;
        for (const Endpoint& endpoint : detail::grpc_endpoints(*instance))
          targets.push_back(endpoint.authority());
        peers.emplace_back(instance, std::move(targets));
      }
      perform(core, core->plan.listed(std::move(peers), now()));
    }
  }

  static asio::awaitable<void> watch_clock(CorePtr core) {
    for (;;) {
      perform(core, core->plan.due(now()));
      if (const auto when = core->plan.wake_at()) {
        co_await core->wake.wait_until(*when);
      } else {
        co_await core->wake.wait();
      }
    }
  }

  static void perform(const CorePtr& core, const StreamPlan::Actions& actions) {
    for (const StreamAction& action : actions) {
      if (action.kind == StreamAction::Close) {
        close(*core, action.stream);
      } else {
        open(core, action);
      }
    }
    if (!actions.empty()) core->wake.raise();
  }

  static void open(const CorePtr& core, const StreamAction& action) {
    const auto running = std::make_shared<Running>(action.instance);
    core->running.emplace(action.stream, running);
    auto finished = [core, number = action.stream](std::exception_ptr error) { ended(*core, number, error); };
    core->home.spawn(run(core, running, action),
                     asio::bind_cancellation_slot(running->cancel.slot(), std::move(finished)));
  }

  static void close(Core& core, std::uint64_t number) {
    const auto found = core.running.find(number);
    if (found == core.running.end()) return;
    const auto running = found->second;
    running->closing = true;
    remove(core, *running);
    running->cancel.emit(asio::cancellation_type::terminal);
  }

  /// The life of one stream. Throws what ended it, if anything did.
  static asio::awaitable<void> run(CorePtr core, std::shared_ptr<Running> running, StreamAction action) {
    grpc::ChannelArguments arguments = core->config.channel_arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    auto credentials = core->config.credentials;
    if (!credentials) credentials = grpc::InsecureChannelCredentials();
    auto channel = grpc::CreateCustomChannel("dns:///" + action.target, credentials, arguments);
    const StreamPtr stream = co_await core->config.factory(std::move(channel), *action.instance);
    if (!stream) throw std::runtime_error("the factory returned no stream");
    if (!core->plan.opened(action.stream, now())) {  // too late
      if (core->config.close) core->config.close(*stream);
      co_return;
    }
    core->wake.raise();
    {
      const std::lock_guard lock(core->mutex);
      core->open[action.instance->id] = stream;
    }
    running->stream = stream;
    co_await core->config.ended(*stream);
  }

  static void ended(Core& core, std::uint64_t number, const std::exception_ptr& error) {
    const auto found = core.running.find(number);
    const auto running = found->second;
    core.running.erase(found);
    remove(core, *running);
    core.plan.ended(number, now(), core.random.draw());
    core.wake.raise();
    notify(core);
    if (error && !running->closing && core.observer.logs()) complain(core, *running->instance, error);
  }

  /// Takes the stream out of the map, and closes it.
  static void remove(Core& core, Running& running) {
    const StreamPtr stream = std::exchange(running.stream, nullptr);
    if (!stream) return;
    {
      const std::lock_guard lock(core.mutex);
      const auto found = core.open.find(running.instance->id);
      if (found != core.open.end() && found->second == stream) core.open.erase(found);
    }
    if (core.config.close) core.config.close(*stream);
  }

  static void complain(const Core& core, const ServiceInstance& instance, const std::exception_ptr& error) {
    std::string why = "unknown";
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& known) {
      why = known.what();
    } catch (...) {
    }
    core.observer.log(LogLevel::Warning, "no stream to " + detail::quote(instance.id) + " of " +
                                             detail::quote(core.config.service_name) + ": " +
                                             detail::quote(why, 200));
  }

  Registry* registry_;
  CorePtr core_;
};

}  // namespace registry
