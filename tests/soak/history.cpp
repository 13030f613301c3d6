// The comparison of logs with the truth.
#include "soak/history.hpp"

#include <algorithm>
#include <functional>
#include <optional>
#include <set>

#include "registry/model/codec.hpp"
#include "registry/model/keys.hpp"

namespace soak {

KeyId KeyNames::id(const std::string& service, const std::string& instance) {
  const std::lock_guard lock(mutex_);
  const auto [at, is_new] = ids_.try_emplace({service, instance}, static_cast<KeyId>(names_.size()));
  if (is_new) names_.emplace_back(service, instance);
  return at->second;
}

std::string KeyNames::service(KeyId id) const {
  const std::lock_guard lock(mutex_);
  return names_.at(id).first;
}

std::string KeyNames::text(KeyId id) const {
  const std::lock_guard lock(mutex_);
  return names_.at(id).first + "/" + names_.at(id).second;
}

std::uint64_t content_of(const registry::ServiceInstance& instance) {
  std::string all = instance.id + '/' + instance.version;
  for (const auto& [name, value] : instance.metadata) all += '/' + name + '=' + value;
  return std::hash<std::string>()(all);
}

void Effects::add(const Seen& effect) {
  by_key_[effect.key].push_back(all_.size());
  all_.push_back(effect);
}

std::size_t Effects::behind(std::int64_t revision) const {
  const auto later = [](std::int64_t wanted, const Seen& each) { return wanted < each.revision; };
  return static_cast<std::size_t>(std::upper_bound(all_.begin(), all_.end(), revision, later) - all_.begin());
}

State Effects::at(std::int64_t revision) const {
  const std::size_t end = behind(revision);
  State state;
  for (const auto& [key, places] : by_key_) {
    const auto next = std::lower_bound(places.begin(), places.end(), end);
    if (next == places.begin()) continue;
    const Seen& last = all_[*std::prev(next)];
    if (!last.deleted) state[key] = {last.revision, last.content};
  }
  return state;
}

const std::vector<std::size_t>& Effects::of(KeyId key) const {
  static const std::vector<std::size_t> none;
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? none : found->second;
}

void History::add(const std::vector<rig::RawEvent>& events) {
  static const registry::KeyLayout layout("/genesis/services", "");
  const auto now = Clock::now();
  for (const auto& event : events) {
    const auto key = layout.parse(event.key);
    if (!key) continue;
    Happened what;
    what.seen.revision = event.mod_revision;
    what.seen.key = names_.id(std::string(key->service), std::string(key->id));
    what.seen.deleted = event.deleted;
    what.lease = event.lease;
    what.arrived = now;
    if (!event.deleted) {
      const auto decoded = registry::decode(event.value, key->service, key->id);
      what.valid = static_cast<bool>(decoded);
      what.version = decoded.instance.version;
      what.seen.content = content_of(decoded.instance);
    }
    all_.push_back(std::move(what));
  }
}

void History::end_at(std::int64_t revision) {
  std::erase_if(all_, [revision](const Happened& what) { return what.seen.revision > revision; });
}

Effects History::effects(const std::string& service, const std::string& version) const {
  Effects effects;
  std::map<KeyId, std::uint64_t> given;  // what a watcher behind the filter has
  std::map<KeyId, bool> ours;
  for (const auto& what : all_) {
    Seen seen = what.seen;
    const auto [known, is_new] = ours.try_emplace(seen.key, false);
    if (is_new) known->second = service.empty() || names_.service(seen.key) == service;
    if (!known->second) continue;
    const auto before = given.find(seen.key);
    const bool there = !seen.deleted && what.valid && (version.empty() || what.version == version);
    if (!there && before == given.end()) continue;
    seen.deleted = !there;
    if (there) {
      given[seen.key] = seen.content;
    } else {
      seen.content = before->second;
      given.erase(before);
    }
    effects.add(seen);
  }
  return effects;
}

namespace {

std::string text_of(const Seen& seen, const KeyNames& names) {
  return std::string(seen.deleted ? "Delete " : "Put ") + names.text(seen.key) + " at " +
         std::to_string(seen.revision) + (seen.resynced ? " (resynced)" : "");
}

std::string difference(const State& is, const State& should, const KeyNames& names) {
  std::string all;
  const auto say = [&](KeyId key, const std::string& what) {
    if (all.size() < 400) all += (all.empty() ? "" : ", ") + names.text(key) + " " + what;
  };
  for (const auto& [key, what] : should) {
    const auto found = is.find(key);
    if (found == is.end())
      say(key, "is missing (of " + std::to_string(what.first) + ")");
    else if (found->second != what)
      say(key, "is of " + std::to_string(found->second.first) + ", not " + std::to_string(what.first));
  }
  for (const auto& [key, what] : is)
    if (!should.contains(key)) say(key, "of " + std::to_string(what.first) + " should be gone");
  return all;
}

/// The state from which a watcher begins is that of one revision.
struct Start {
  std::size_t events = 0;  // that told of it
  std::int64_t revision = 0;
};

State given_by(const std::vector<Seen>& log, std::size_t count) {
  State state;
  for (std::size_t i = 0; i < count; ++i) state[log[i].key] = {log[i].revision, log[i].content};
  return state;
}

/// How long the list at the beginning is, at most: Puts of ascending ids.
std::size_t list_length(const std::vector<Seen>& log, const KeyNames& names) {
  std::size_t most = 0;
  while (most < log.size() && !log[most].deleted && !log[most].resynced &&
         (most == 0 || names.text(log[most - 1].key) < names.text(log[most].key)))
    ++most;
  return most;
}

std::optional<Start> start_of(const std::vector<Seen>& log, const Effects& truth, const KeyNames& names) {
  for (std::size_t count = list_length(log, names) + 1; count-- > 0;) {
    const State state = given_by(log, count);
    if (count < log.size() && !log[count].resynced) {
      Start start;
      start.events = count;
      start.revision = log[count].revision - 1;
      if (truth.at(start.revision) == state) return start;
      continue;
    }
    std::int64_t from = 0;
    for (const auto& [key, what] : state) from = std::max(from, what.first);
    for (std::size_t i = truth.behind(from);; ++i) {
      if (truth.at(from).size() == state.size() && truth.at(from) == state) {
        Start start;
        start.events = count;
        start.revision = from;
        return start;
      }
      if (i >= truth.all().size()) break;
      from = truth.all()[i].revision;
    }
  }
  return std::nullopt;
}

/// Line by line against the truth; empty, or where they part. A group of resynced
/// events that stands for `queue` effects or more may be the watcher's queue, folded; it counts apart.
std::string exactly(const std::vector<Seen>& log, const Effects& truth, const Start& start, bool to_end,
                    std::size_t queue, const KeyNames& names, Comparison& result) {
  const auto& all = truth.all();
  State known = given_by(log, start.events);
  std::size_t place = truth.behind(start.revision);
  const auto apply = [&](const Seen& seen) {
    if (seen.deleted)
      known.erase(seen.key);
    else
      known[seen.key] = {seen.revision, seen.content};
  };
  for (std::size_t i = start.events; i < log.size();) {
    if (!log[i].resynced && place < all.size() && log[i].same(all[place])) {
      apply(log[i++]);
      ++place;
      continue;
    }
    const std::string where = text_of(log[i], names) + " stands where the truth has " +
                              (place < all.size() ? text_of(all[place], names) : std::string("nothing"));
    const std::size_t before = i, from = place;
    while (i < log.size() && log[i].resynced) apply(log[i++]);
    const auto goes_on_at = [&](std::size_t next) {
      if (next - from >= queue) {
        ++result.folds;
      } else {
        result.relists.push_back(where + "; " + std::to_string(i - before) + " resynced events for " +
                                 std::to_string(next - from));
      }
      return next;
    };
    if (i == log.size()) {
      place = goes_on_at(all.size());
      break;
    }
    const State there = truth.at(log[i].revision - 1);
    if (known != there)
      return where + "; before " + text_of(log[i], names) + ": " + difference(known, there, names);
    const std::size_t next = truth.behind(log[i].revision - 1);
    if (next == all.size() || !log[i].same(all[next])) return where;
    place = goes_on_at(next);
  }
  if (to_end && place != all.size()) return "ends before " + text_of(all[place], names);
  return {};
}

}  // namespace

Comparison compare(const std::vector<Seen>& log, const Effects& truth, bool to_end, std::size_t queue,
                   const KeyNames& names) {
  Comparison result;
  // One that was dropped while it was still told what is there says nothing.
  if (!to_end && list_length(log, names) == log.size()) return result;
  const auto start = start_of(log, truth, names);
  if (!start) {
    result.wrong = "the list that it begins with was never the state of the store";
    return result;
  }
  result.inexact = exactly(log, truth, *start, to_end, queue, names, result);

  // Each instance by itself: this must hold however much was folded.
  const auto& all = truth.all();
  State known = given_by(log, start->events);
  std::map<KeyId, std::size_t> done;  // effects of a key that are behind it
  const auto passed = [&](KeyId key) -> std::size_t& {
    const auto [at, is_new] = done.try_emplace(key, 0);
    if (is_new) {
      const auto& places = truth.of(key);
      while (at->second < places.size() && all[places[at->second]].revision <= start->revision) ++at->second;
    }
    return at->second;
  };
  std::int64_t last = start->revision;
  for (std::size_t i = start->events; i < log.size(); ++i) {
    const Seen& seen = log[i];
    const auto wrong = [&](const std::string& what) { result.wrong = text_of(seen, names) + ": " + what; };
    const auto& places = truth.of(seen.key);
    std::size_t& next = passed(seen.key);
    if (seen.deleted && !known.contains(seen.key)) return wrong("nothing was known of it"), result;
    if (seen.resynced) {
      ++result.resynced;
      std::size_t at = next;
      if (seen.deleted) {
        // Of a list: at its revision. The last removal up to it, behind which nothing came.
        std::optional<std::size_t> found;
        for (; at < places.size() && all[places[at]].revision <= seen.revision; ++at)
          found = all[places[at]].deleted ? std::optional(at) : std::nullopt;
        if (!found) return wrong("it was there at that revision"), result;
        at = *found;
      } else {
        while (at < places.size() && !all[places[at]].same(seen)) ++at;
        if (at == places.size()) return wrong("never happened, or was told before"), result;
      }
      next = at + 1;
    } else {
      if (seen.revision < last) return wrong("comes behind an event of " + std::to_string(last)), result;
      last = seen.revision;
      if (next < places.size() && all[places[next]].same(seen)) {
        ++next;
      } else {
        std::size_t at = next;
        while (at < places.size() && !all[places[at]].same(seen)) ++at;
        if (at == places.size()) return wrong("never happened, or was told before"), result;
        if (known.contains(seen.key) || !all[places[at - 1]].deleted)
          return wrong("not resynced, but " + text_of(all[places[next]], names) + " is missing before it"),
                 result;
        ++result.unseen;
        next = at + 1;
      }
    }
    if (seen.deleted)
      known.erase(seen.key);
    else
      known[seen.key] = {seen.revision, seen.content};
  }
  if (to_end && known != truth.at_end())
    result.wrong = "in the end: " + difference(known, truth.at_end(), names);
  return result;
}

}  // namespace soak
