// The protocol of one ADS stream (xDS v3, state of the world), decided without I/O: what a request changes,
// what is to be written next, and which answer an acknowledgement or a refusal refers to.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "registry/policy/ads_messages.hpp"

namespace registry {

/// One stream, from its first request to its end; the next stream gets a new one. Listeners (their routes
/// inline) and Clusters are answered for every name that is asked for, endpoints once they are loaded.
///
/// The order of what waits: clusters, endpoints, listeners, then endpoints that became none; so what a
/// Listener sends calls to is there before it and is taken away after it. To keep this, tell of everything
/// that belongs to one change before the next call of next().
///
/// Thread safety: none of its own; keep it on one strand.
class AdsStream {
 public:
  /// Names of resources.
  using Names = std::set<std::string, std::less<>>;

  /// Names of one type that a client may ask for: an answer with all of them must stay below the 4 MiB that a
  /// gRPC client reads, at up to 1 KiB for each Listener.
  static constexpr std::size_t max_names = 4096;
  /// Answers without an acknowledgement that are remembered, to know what a refusal refers to.
  static constexpr std::size_t max_unsettled = 256;
  /// Bytes of a refusal's text that are kept.
  static constexpr std::size_t max_text = 1024;

  /// A stream on which the client may ask for that many names of one type.
  explicit AdsStream(std::size_t names_limit = max_names) : names_limit_(names_limit) {}

  /// What the client sent. Names count in every request, whatever its nonce.
  AdsOutcome request(const AdsRequest& request) {
    AdsOutcome outcome;
    const std::optional<XdsType> type = xds_type(request.type_url);
    if (!type) return outcome;
    Names wanted(request.names.begin(), request.names.end());
    if (wanted.size() > names_limit_) {
      outcome.refusal = "asks for " + std::to_string(wanted.size()) + " names of " +
                        std::string(type_url(*type)) + ", at most " + std::to_string(names_limit_) +
                        " are served on one stream";
      return outcome;
    }
    outcome.type = type;
    outcome.nacked = request.error.has_value();
    Subscription& mine = of(*type);
    const bool settles = settle(*type, request);
    subscribe(*type, std::move(wanted), outcome);
    if (request.error) return outcome;
    if (request.nonce.empty()) {
      everything(*type);  // it has seen no answer of this stream
    } else if (!settles && request.nonce == mine.settled && outcome.subscribed.empty() &&
               outcome.unsubscribed.empty() && !std::exchange(mine.repeated, true)) {
      // Asked again without a difference: gRPC folds unsubscribing and subscribing the same name into one
      // request, and has dropped its copy. Believed once after each answer that had another reason, or a
      // client that acknowledges twice would be answered for ever.
      everything(*type);
    }
    return outcome;
  }

  /// The endpoints of `name` are known now, possibly none. Nothing of a name is sent before; again after it
  /// was unsubscribed. Ignored for a name that the client does not follow.
  void loaded(std::string_view name) {
    const auto found = endpoints_.find(name);
    if (found != endpoints_.end() && !std::exchange(found->second.loaded, true)) wait(*found);
  }

  /// A resource has another content than before. Ignored for a name that the client does not follow, and for
  /// endpoints that are not loaded.
  void changed(XdsType type, std::string_view name) {
    Subscription& mine = of(type);
    if (type == XdsType::Endpoints) {
      const auto found = endpoints_.find(name);
      if (found == endpoints_.end() || !found->second.loaded) return;
      late_.erase(found->first);
      wait(*found);
    } else {
      if (!mine.names.contains(name)) return;
      mine.since = answers_ + 1;  // behind the endpoints that came with it
    }
    ++mine.version;
    mine.repeated = false;
  }

  /// As changed(), for endpoints that have become none: they are sent behind the Listeners that wait.
  void emptied(std::string_view name) {
    const auto found = endpoints_.find(name);
    if (found == endpoints_.end() || !found->second.loaded) return;
    early_.erase({std::exchange(found->second.since, 0), found->first});
    late_.insert(found->first);
    ++of(XdsType::Endpoints).version;
    of(XdsType::Endpoints).repeated = false;
  }

  /// What to write now, with the resources as they are now; empty while an answer is being written, or if
  /// nothing waits. However often a resource changed meanwhile, it is sent once. Call written() when the
  /// write is done.
  std::optional<AdsAnswer> next() {
    if (writing_) return std::nullopt;
    const std::uint64_t listeners = of(XdsType::Listener).since;
    if (of(XdsType::Cluster).since != 0) return answer_all(XdsType::Cluster);
    // Endpoints that changed after the Listeners do not hold them up, or a busy service would keep new
    // channels out.
    if (!early_.empty() && (listeners == 0 || early_.begin()->first <= listeners)) {
      const auto first = early_.extract(early_.begin());
      endpoints_.find(first.value().second)->second.since = 0;
      return answer(XdsType::Endpoints, {first.value().second});
    }
    if (listeners != 0) {
      std::optional<AdsAnswer> sent = answer_all(XdsType::Listener);
      // What was behind these Listeners has its turn now and is behind no later ones.
      for (const std::string& name : std::exchange(late_, {})) wait(*endpoints_.find(name));
      return sent;
    }
    if (late_.empty()) return std::nullopt;
    return answer(XdsType::Endpoints, {late_.extract(late_.begin()).value()});
  }

  /// The last answer was written. (Not: acknowledged. A client that never acknowledges is served all the
  /// same; one that does not read holds up its own stream only.)
  void written() noexcept { writing_ = false; }

  /// The names that the client follows.
  const Names& subscriptions(XdsType type) const noexcept {
    return subscriptions_[static_cast<std::size_t>(type)].names;
  }

  /// The last answer that the client refused, and how many it refused. A refused resource is not sent again
  /// until it changes or is asked for anew (a full set excepted: leaving a Listener out would delete it); the
  /// client goes on with the one that it had.
  const std::optional<AdsNack>& last_nack() const noexcept { return nack_; }
  /// How many answers the client refused; see last_nack().
  std::uint64_t nacks() const noexcept { return nacks_; }

 private:
  struct Subscription {
    Names names;
    std::uint64_t version = 1;
    std::uint64_t since = 0;  // Listeners, Clusters: the turn from which on an answer waits; 0: none
    std::string settled;      // the last nonce that was acknowledged or refused
    bool repeated = false;    // a request without a difference was answered already
  };
  struct Load {
    bool loaded = false;
    std::uint64_t since = 0;  // the turn from which on an answer waits, not counting late_; 0: none
  };
  struct Sent {
    XdsType type;
    std::string nonce, version, name;  // the name of endpoints
  };
  using Loads = std::map<std::string, Load, std::less<>>;

  Subscription& of(XdsType type) noexcept { return subscriptions_[static_cast<std::size_t>(type)]; }

  /// Attributes the request to an answer. Whether it is the first word on it.
  bool settle(XdsType type, const AdsRequest& request) {
    const auto found = std::find_if(unsettled_.begin(), unsettled_.end(), [&](const Sent& sent) {
      return sent.type == type && sent.nonce == request.nonce;
    });
    const bool known = found != unsettled_.end();
    if (request.error) {
      nack_.emplace();
      nack_->type = type;
      if (known) nack_->name = found->name, nack_->version = found->version;
      nack_->text = request.error->substr(0, max_text);
      ++nacks_;
    }
    if (!known) return false;
    of(type).settled = request.nonce;
    // A word on an answer stands for the earlier ones of its type: gRPC folds acknowledgements.
    const auto later = unsettled_.erase(found);
    unsettled_.erase(
        std::remove_if(unsettled_.begin(), later, [&](const Sent& sent) { return sent.type == type; }),
        later);
    return true;
  }

  void subscribe(XdsType type, Names wanted, AdsOutcome& outcome) {
    Subscription& mine = of(type);
    for (const std::string& name : mine.names) {
      if (!wanted.contains(name)) outcome.unsubscribed.push_back(name);
    }
    for (const std::string& name : wanted) {
      if (!mine.names.contains(name)) outcome.subscribed.push_back(name);
    }
    mine.names = std::move(wanted);
    if (!outcome.subscribed.empty()) mine.repeated = false;
    if (type != XdsType::Endpoints) {
      if (mine.names.empty()) mine.since = 0;
      if (!outcome.subscribed.empty()) wait(mine);
      return;
    }
    for (const std::string& name : outcome.unsubscribed) {
      const auto found = endpoints_.find(name);
      early_.erase({found->second.since, name});
      late_.erase(name);
      endpoints_.erase(found);
    }
    for (const std::string& name : outcome.subscribed) endpoints_.try_emplace(name);
  }

  void everything(XdsType type) {
    if (type != XdsType::Endpoints) {
      if (!of(type).names.empty()) wait(of(type));
      return;
    }
    for (auto& each : endpoints_) {
      if (each.second.loaded && !late_.contains(each.first)) wait(each);
    }
  }

  // Whatever is told between two answers waits from the same turn on.
  void wait(Subscription& mine) noexcept {
    if (mine.since == 0) mine.since = answers_ + 1;
  }

  void wait(Loads::value_type& endpoints) {
    if (endpoints.second.since != 0) return;
    endpoints.second.since = answers_ + 1;
    early_.emplace(endpoints.second.since, endpoints.first);
  }

  std::optional<AdsAnswer> answer_all(XdsType type) {
    Subscription& mine = of(type);
    mine.since = 0;
    return answer(type, std::vector<std::string>(mine.names.begin(), mine.names.end()));
  }

  std::optional<AdsAnswer> answer(XdsType type, std::vector<std::string> names) {
    AdsAnswer made;
    made.type = type;
    made.version = std::to_string(of(type).version);
    made.nonce = std::to_string(++answers_);
    made.names = std::move(names);
    unsettled_.push_back({type, made.nonce, made.version, type == XdsType::Endpoints ? made.names[0] : ""});
    if (unsettled_.size() > max_unsettled) unsettled_.pop_front();
    writing_ = true;
    return made;
  }

  std::size_t names_limit_;
  std::array<Subscription, xds_type_urls.size()> subscriptions_;
  Loads endpoints_;                                        // of the names of type Endpoints
  std::set<std::pair<std::uint64_t, std::string>> early_;  // endpoints that wait: the turn, the name
  Names late_;                                             // endpoints that became none and wait
  std::deque<Sent> unsettled_;
  std::uint64_t answers_ = 0;
  bool writing_ = false;
  std::optional<AdsNack> nack_;
  std::uint64_t nacks_ = 0;
};

}  // namespace registry
