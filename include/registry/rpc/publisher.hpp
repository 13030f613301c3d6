// Publishes the services of a Registry to control planes: follows a service while somebody asks for it, decides what
// gRPC is told of it, and pushes what differs.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/this_coro.hpp>
#include <algorithm>
#include <chrono>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/clock.hpp"
#include "registry/async/home.hpp"
#include "registry/async/on.hpp"
#include "registry/async/signal.hpp"
#include "registry/async/sleep.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/facade/registry_core.hpp"
#include "registry/model/text.hpp"
#include "registry/model/validate.hpp"
#include "registry/observe/observer.hpp"
#include "registry/policy/ads_messages.hpp"
#include "registry/policy/backoff.hpp"
#include "registry/policy/locality_names.hpp"
#include "registry/policy/publication.hpp"
#include "registry/policy/push_pacer.hpp"
#include "registry/policy/traffic_split.hpp"
#include "registry/rpc/address_book.hpp"
#include "registry/rpc/ads_table.hpp"
#include "registry/rpc/resolver_config.hpp"
#include "registry/rpc/xds_names.hpp"
#include "registry/rpc/xds_resources.hpp"

namespace registry::detail {

/// The rules, fixed for the life of a Resolver. What they make of a name is the same on every thread.
struct PublishingRules {
  ResolverConfig config;

  explicit PublishingRules(ResolverConfig settings) : config(std::move(settings)) {}

  const ServiceRule& of(const std::string& service) const {
    const auto own = config.services.find(service);
    return own != config.services.end() ? own->second : config.rule;
  }

  PublicationRule publication(const std::string& service) const {
    const ServiceRule& rule = of(service);
    PublicationRule made;
    made.balancing = rule.balancing;
    made.filter = rule.filter;
    made.region = config.region;
    made.zone = config.zone;
    made.client = config.client_id;
    made.max_endpoints = config.max_endpoints;
    return made;
  }

  /// The Listener or Cluster of a name that nothing is known of yet. `prefix` stands before our names.
  std::string describe(XdsType type, const std::string& prefix, const std::string& name) const {
    const std::string rest = name.substr(prefix.size());
    if (type == XdsType::Cluster) return cluster_resource(name, of(ClusterName(rest).service));
    const std::string service = rest.substr(0, rest.find('/'));
    const ServiceRule& rule = of(service);
    return listener_resource(name, prefix + ClusterName::of(service),
                             split_traffic(rule.version_shares, [](const std::string&) { return true; }),
                             rule);
  }
};

/// Lives on its own strand of the store's executor.
class Publisher : public std::enable_shared_from_this<Publisher> {
 public:
  using Clock = std::chrono::steady_clock;

  /// How long a service is followed on when nobody asks for it any more.
  static constexpr std::chrono::seconds linger{30};
  /// How long the first list waits for host names.
  static constexpr std::chrono::seconds name_patience{3};

  Publisher(RegistryParts registry, std::shared_ptr<const PublishingRules> rules)
      : home(Home::strand(registry.outside.executor())),
        rules_(std::move(rules)),
        directory_(std::move(registry.directory)),
        observer_(std::move(registry.observer)),
        tasks_(home) {}

  const Home home;

  /// Where to publish, and what stands before our names there. Before anything else; lives as long as this.
  void publish_to(std::shared_ptr<AdsTable> table, std::string prefix) {
    outlets_.emplace_back(std::move(table), std::move(prefix));
  }

  /// Somebody asks, or no longer asks, for the endpoints of a name, without its prefix. Any thread.
  void asked(const std::string& name) {
    home.post([self = shared_from_this(), service = ClusterName(name).service] { self->follow(service); });
  }

  /// A client refused what was published. Any thread.
  void refused(const AdsNack& nack) const {
    observer_.count(metric::resolver_rejections);
    observer_.log(LogLevel::Error, "gRPC refused what was published" +
                                       (nack.name.empty() ? std::string() : " as " + quote(nack.name)) +
                                       ": " + quote(nack.text, 500));
  }

  /// How many endpoints of a service gRPC was given; follows the service.
  static asio::awaitable<void> ready(std::shared_ptr<Publisher> self, std::string service,
                                     std::size_t at_least, Clock::time_point deadline) {
    const auto publication = self->follow(service);
    const Waiting waiting(publication);
    while (!self->closed_ && !(publication->loaded && publication->endpoints >= at_least)) {
      if (Clock::now() >= deadline || publication->problem == errc::closed) {
        Problem why = publication->problem;
        if (!why) why = errc::timed_out;
        why.raise("service " + quote(service) + ": " + std::to_string(publication->endpoints) + " of " +
                  std::to_string(at_least) + " endpoints");
      }
      co_await waiting.signal().wait_until(deadline);
    }
    if (self->closed_) fail(errc::closed);
  }

  /// Publishes nothing more. What gRPC has it keeps.
  void cancel() {
    if (std::exchange(closed_, true)) return;
    for (const auto& [service, publication] : publications_) publication->tell();
    publications_.clear();
    if (book_) book_->cancel();
    tasks_.cancel();
  }
  static asio::awaitable<void> join(std::shared_ptr<Publisher> self) {
    co_await self->tasks_.join();
    if (self->book_) co_await self->book_->join();
  }

 private:
  /// Clients of other processes may ask for anything.
  static bool is_service_name(const std::string& name) {
    try {
      validate_service_name(name);
    } catch (const std::system_error&) {
      return false;
    }
    return true;
  }

  struct Publication {
    std::string service;
    ServiceView view;
    Signal wake;  // something may have changed
    PushPacer pacer;
    std::map<std::string, EndpointAssignment> sent;  // by the name of the cluster
    std::map<std::string, LocalityNames> names;      // likewise
    std::optional<TrafficSplit> split;
    std::optional<Clock::time_point> unwanted;  // since when
    bool loaded = false;
    bool known = false;  // has had endpoints
    std::size_t endpoints = 0;
    Problem problem;
    std::list<Signal> waiting;  // for news

    void tell() const {
      for (const Signal& each : waiting) each.raise();
    }
  };
  using PublicationPtr = std::shared_ptr<Publication>;
  using Instances = std::vector<std::shared_ptr<const ServiceInstance>>;

  class Waiting {
   public:
    explicit Waiting(PublicationPtr publication)
        : publication_(std::move(publication)),
          at_(publication_->waiting.emplace(publication_->waiting.end())) {}
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;
    ~Waiting() { publication_->waiting.erase(at_); }
    const Signal& signal() const { return *at_; }

   private:
    const PublicationPtr publication_;
    const std::list<Signal>::iterator at_;
  };

  PublicationPtr follow(const std::string& service) {
    auto& publication = publications_[service];
    if (publication) {
      publication->wake.raise();
      return publication;
    }
    publication = std::make_shared<Publication>();
    publication->service = service;
    publication->pacer = PushPacer(static_cast<unsigned>(rules_->config.max_pushes_per_second));
    if (!closed_) tasks_.spawn(run(shared_from_this(), publication));
    return publication;
  }

  bool wanted(const Publication& publication) const {
    for (const auto& [table, prefix] : outlets_) {
      for (const std::string& name : clusters(publication.service)) {
        if (table->wanted(prefix + name)) return true;
      }
    }
    return false;
  }

  /// The names of the clusters of a service.
  std::vector<std::string> clusters(const std::string& service) const {
    const auto& shares = rules_->of(service).version_shares;
    if (shares.empty()) return {ClusterName::of(service)};
    std::vector<std::string> names;
    for (const auto& [version, share] : shares) names.push_back(ClusterName::of(service, version));
    return names;
  }

  static asio::awaitable<void> run(std::shared_ptr<Publisher> self, PublicationPtr publication) {
    if (is_service_name(publication->service)) {
      co_await subscribe(self, publication);
      self->tasks_.spawn(watch(publication));
    }
    const auto began = Clock::now();
    publication->pacer.changed();
    while (!self->over(*publication)) {
      const auto now = Clock::now();
      auto next = now + self->rules_->config.name_refresh;
      if (const auto due = publication->pacer.due(now); due && *due > now) {
        next = *due;
      } else if (due && !self->push(*publication, now, now - began >= name_patience)) {
        next = now + std::chrono::seconds(1);  // names are being looked up
      }
      co_await publication->wake.wait_until(next);
      publication->pacer.changed();
    }
    self->forget(*publication);
  }

  /// Until the service's list is there. What keeps it away is told to those who wait.
  static asio::awaitable<void> subscribe(std::shared_ptr<Publisher> self, PublicationPtr publication) {
    Backoff backoff;
    while (!publication->view) {
      try {
        publication->view =
            co_await Directory::subscribe(self->directory_, publication->service, ServiceFilter());
        publication->problem = Problem();
        co_return;
      } catch (const std::system_error& error) {
        publication->problem = Problem(error);
      }
      publication->tell();
      const bool closed = publication->problem == errc::closed;
      co_await sleep_for(closed ? std::chrono::hours(24) : backoff.next(self->random_.draw()));
    }
  }

  static asio::awaitable<void> watch(PublicationPtr publication) {
    ServiceView view = publication->view;
    try {
      for (;;) {
        co_await view.next();
        publication->wake.raise();
      }
    } catch (const std::system_error&) {
      // Closed or cancelled: what was published stays.
    }
  }

  /// Publishes what differs from what was published. False: names are still being looked up for the first time,
  /// and nothing was published.
  bool push(Publication& publication, Clock::time_point now, bool patience_over) {
    const auto snapshot = publication.view.snapshot();
    bool settled = true;
    const auto addresses = [&](const ServiceInstance& instance) {
      std::vector<ResolvedAddress> found;
      for (const Endpoint& endpoint : grpc_endpoints(instance)) {
        const AddressBook::Known known = book().lookup(endpoint.host);
        settled = settled && known.settled;
        for (const std::string& ip : known.addresses) found.emplace_back(ip, endpoint.port);
      }
      return found;
    };
    PublicationRule rule = rules_->publication(publication.service);
    std::map<std::string, EndpointAssignment> made;
    const ServiceRule& service_rule = rules_->of(publication.service);
    std::set<std::string> usable;
    if (service_rule.version_shares.empty()) {
      made[ClusterName::of(publication.service)] = assign_endpoints(snapshot->instances, addresses, rule);
    } else {
      for (const auto& [version, share] : service_rule.version_shares) {
        rule.version = version;
        const auto& each = made[ClusterName::of(publication.service, version)] =
            assign_endpoints(snapshot->instances, addresses, rule);
        if (!each.empty() && share != 0) usable.insert(version);
      }
    }
    std::size_t endpoints = 0;
    for (const auto& [name, assignment] : made) endpoints += count_endpoints(assignment);
    if (!usable.empty()) {
      // Calls that wait for a version are never routed again: if it has no instance the others serve them.
      rule.version.reset();
      Instances others;
      for (const auto& instance : snapshot->instances) {
        if (usable.contains(instance->version)) others.push_back(instance);
      }
      for (auto& [name, assignment] : made) {
        if (assignment.empty()) assignment = assign_endpoints(others, addresses, rule);
      }
    }
    if (!settled && !publication.loaded && !patience_over) return false;
    for (auto& [name, assignment] : made) publication.names[name].settle(assignment, now);
    publication.pacer.pushed(now);
    const TrafficSplit split = split_traffic(
        service_rule.version_shares, [&](const std::string& version) { return usable.contains(version); });
    publication.endpoints = endpoints;
    send(publication, std::move(made), split);
    return true;
  }

  void send(Publication& publication, std::map<std::string, EndpointAssignment> made,
            const TrafficSplit& split) {
    bool sent = false;
    for (const auto& [table, prefix] : outlets_) {
      std::vector<AdsTable::Change> changes;
      for (const auto& [name, assignment] : made) {
        const auto known = publication.sent.find(name);
        if (known != publication.sent.end() && known->second == assignment) continue;
        AdsTable::Change& change = changes.emplace_back(XdsType::Endpoints, prefix + name);
        change.resource = endpoints_resource(prefix + name, assignment);
        change.none = assignment.empty();
      }
      if (publication.split != split) {
        AdsTable::Change& change = changes.emplace_back(XdsType::Listener, prefix + publication.service);
        change.resource = listener_resource(change.name, prefix + ClusterName::of(publication.service), split,
                                            rules_->of(publication.service));
      }
      sent = sent || !changes.empty();
      table->publish(std::move(changes));
    }
    publication.split = split;
    publication.sent = std::move(made);
    publication.loaded = true;
    // A name that no service has is not told: clients may ask for any, and each would be a label for ever.
    publication.known = publication.known || publication.endpoints != 0;
    if (sent && publication.known) observer_.count(metric::resolver_updates, publication.service);
    publication.tell();
  }

  /// Whether nobody has asked for it for a while.
  bool over(Publication& publication) {
    const auto now = Clock::now();
    if (wanted(publication) || !publication.waiting.empty()) {
      publication.unwanted.reset();
    } else if (!publication.unwanted) {
      publication.unwanted = now;
    }
    return publication.unwanted && now - *publication.unwanted >= linger;
  }

  void forget(const Publication& publication) {
    for (const auto& [table, prefix] : outlets_) {
      std::vector<AdsTable::Change> changes;
      for (const auto& [name, assignment] : publication.sent)
        changes.emplace_back(XdsType::Endpoints, prefix + name);
      table->publish(std::move(changes));
    }
    publications_.erase(publication.service);
  }

  AddressBook& book() {
    if (!book_) {
      auto wake = [weak = weak_from_this()] {
        if (const auto self = weak.lock()) {
          for (const auto& [service, publication] : self->publications_) publication->wake.raise();
        }
      };
      book_ = std::make_shared<AddressBook>(home, observer_, rules_->config.name_refresh, std::move(wake));
    }
    return *book_;
  }

  const std::shared_ptr<const PublishingRules> rules_;
  const std::shared_ptr<Directory> directory_;
  const Observer observer_;
  TaskScope tasks_;
  Random random_;
  std::shared_ptr<AddressBook> book_;
  std::vector<std::pair<std::shared_ptr<AdsTable>, std::string>> outlets_;
  std::map<std::string, PublicationPtr> publications_;
  bool closed_ = false;
};

}  // namespace registry::detail
