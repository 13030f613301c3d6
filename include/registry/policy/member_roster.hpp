// Which members of an etcd cluster are used beside the endpoints that are configured (auto-sync): answers to
// MemberList in; whom to ask, to use and to give up out.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "registry/model/endpoint.hpp"
#include "registry/model/text.hpp"
#include "registry/policy/backoff.hpp"

namespace registry {

/// A member as MemberList shows it.
struct ListedMember {
  std::uint64_t id = 0;                  ///< in the cluster
  std::vector<std::string> client_urls;  ///< none before it has started
  bool learner = false;                  ///< it takes no calls yet

  ListedMember() {}
};

/// An answer to MemberList. `cluster` and `member` are who answered, by its own word.
struct MemberAnswer {
  std::string from;  ///< the address that was asked
  /// Who answered, by its own word.
  std::uint64_t cluster = 0, member = 0;
  std::vector<ListedMember> members;  ///< all that it knows

  MemberAnswer() {}
};

/// Addresses that were learned from the cluster, beside those that are configured; these are never given up.
///
/// What a member advertises may be no address for us: of an inner network, of a host of the same name, or
/// localhost, where another etcd may listen. So an address is used once it has answered itself, as one of
/// our cluster. Which cluster is ours, the configured endpoints say: when they show another one, it was
/// replaced, and all that was learned is given up; when a learned address does, that address is given up.
///
/// An answer counts only if the member who gives it stands in its own list: one that was removed, or has
/// not joined yet, knows an old list or none.
///
/// Thread safety: none of its own; keep it on one strand.
class MemberRoster {
 public:
  /// What a list leads to.
  struct Step {
    std::vector<std::string> ask;    ///< addresses to ask themselves: report answered() or silent()
    std::vector<std::string> drop;   ///< addresses to use no more
    std::vector<std::string> notes;  ///< what an operator may want to know, each once
    bool settled = false;            ///< the list counted, and all it holds is in use

    Step() {}
  };

  /// Whether to use an address that was asked.
  struct Admission {
    bool use = false;  ///< from now on
    std::string note;  ///< empty: nothing new

    Admission() {}
  };

  /// A list is data from the network: more addresses than this are not looked at.
  static constexpr std::size_t most = 100;

  /// `configured` as "host:port"; `tls`: we speak it, to every member or to none.
  MemberRoster(const std::vector<std::string>& configured, bool tls)
      : configured_(configured.begin(), configured.end()), tls_(tls) {}

  /// A list came in.
  Step listed(const MemberAnswer& answer) {
    Step step;
    if (!names_itself(answer)) return step;
    if (answer.cluster != cluster_) {
      const bool decides = configured_.count(answer.from) != 0;
      give_up(step, "shows another cluster",
              [&](const auto& address) { return decides || address == answer.from; });
      if (!decides) return step;
      cluster_ = answer.cluster;
    }
    std::set<std::string> unfit;
    const std::set<std::string> fit = addresses_of(answer, unfit);
    for (const auto& note : unfit) {
      if (unfit_.count(note) == 0) step.notes.push_back(note);
    }
    unfit_ = std::move(unfit);
    give_up(step, "is no longer of a member", [&](const auto& address) { return fit.count(address) == 0; });
    for (const auto& address : fit) {
      Place& place = places_[address];
      if (!place.used && !std::exchange(place.asked, true)) step.ask.push_back(address);
    }
    step.settled =
        std::all_of(places_.begin(), places_.end(), [](const auto& entry) { return entry.second.used; });
    return step;
  }

  /// An address of `ask` has answered, as of this cluster.
  Admission answered(const std::string& address, std::uint64_t cluster) {
    if (cluster != cluster_) return refused(address, "another cluster answers there");
    Admission admission;
    const auto found = places_.find(address);
    if (found == places_.end()) return admission;  // no longer listed
    admission.use = !std::exchange(found->second.used, true);
    admission.note = "etcd " + address + " is used, too: its cluster names it";
    return admission;
  }

  /// An address of `ask` did not answer, for this reason.
  Admission silent(const std::string& address, const std::string& why) {
    return refused(address, "it does not answer: " + why);
  }

 private:
  struct Place {
    bool asked = false, used = false, told = false;
  };

  static bool names_itself(const MemberAnswer& answer) {
    return answer.cluster != 0 &&
           std::any_of(answer.members.begin(), answer.members.end(), [&](const ListedMember& member) {
             return member.id == answer.member && !member.client_urls.empty();
           });
  }

  /// Why we cannot use it; null if we can.
  const char* fault_of(const std::optional<Endpoint>& url) const {
    if (!url || !url->query.empty()) return "is no address we understand";
    if (url->scheme == "https") return tls_ ? nullptr : "wants TLS, and tls is not set";
    if (url->scheme == "http") return tls_ ? "is plain text, and tls is set" : nullptr;
    return url->scheme.empty() ? nullptr : "is neither http:// nor https://";
  }

  std::set<std::string> addresses_of(const MemberAnswer& answer, std::set<std::string>& unfit) const {
    std::set<std::string> fit;
    for (const auto& member : answer.members) {
      if (member.learner) continue;  // takes no calls yet
      for (const auto& text : member.client_urls) {
        if (fit.size() + unfit.size() == most) return fit;
        const auto url = parse_endpoint(text);
        if (const char* fault = fault_of(url)) {
          unfit.insert("a member of etcd advertises " + detail::quote(text, 100) + ", which " + fault +
                       ": it is not used");
        } else if (configured_.count(url->authority()) == 0) {
          fit.insert(url->authority());
        }
      }
    }
    return fit;
  }

  template <class Condition>
  void give_up(Step& step, const char* why, Condition condition) {
    std::erase_if(places_, [&](const auto& entry) {
      const auto& [address, place] = entry;
      if (!condition(address)) return false;
      if (place.used) {
        step.drop.push_back(address);
        step.notes.push_back("etcd " + address + " " + why + ": it is not used any more");
      }
      return true;
    });
  }

  Admission refused(const std::string& address, const std::string& why) {
    Admission admission;
    const auto found = places_.find(address);
    if (found == places_.end()) return admission;
    found->second.asked = false;
    if (!std::exchange(found->second.told, true))
      admission.note = "etcd " + address + ", which a member advertises, is not used: " + why;
    return admission;
  }

  const std::set<std::string> configured_;
  const bool tls_;
  std::uint64_t cluster_ = 0;            // ours; 0: not known yet
  std::map<std::string, Place> places_;  // what the last list that counted holds
  std::set<std::string> unfit_;          // what was said about it
};

/// When to ask for the members again: every interval, a tenth less by its draw, so that clients that started
/// together do not ask together. Sooner after a list that could not be had, or that had something new.
///
/// Thread safety: none of its own; keep it on one strand.
class SyncPace {
 public:
  /// For a list every `interval`.
  explicit SyncPace(std::chrono::milliseconds interval)
      : interval_(interval), sooner_(std::min(interval, std::chrono::milliseconds(1000)), interval) {}

  /// The pause before the next list. `settled`: there is nothing that would be worth a sooner look. `draw` is evenly distributed in [0, 1).
  std::chrono::milliseconds pause(bool settled, double draw) {
    if (!settled) return sooner_.next(draw);
    sooner_.reset();
    return interval_ - std::chrono::milliseconds(
                           static_cast<std::int64_t>(static_cast<double>(interval_.count()) * 0.1 * draw));
  }

 private:
  std::chrono::milliseconds interval_;
  Backoff sooner_;
};

}  // namespace registry
