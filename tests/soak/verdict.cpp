// The judgement over a soak.
#include "soak/verdict.hpp"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <set>
#include <utility>

#include "registry/discovery/directory.hpp"
#include "registry/model/codec.hpp"
#include "soak/writers.hpp"

namespace soak {

using namespace std::chrono_literals;
using registry::RegistrationState;

void Verdict::add(std::string what, std::string expected, std::string seen, bool ok) {
  Row row;
  row.what = std::move(what);
  row.expected = std::move(expected);
  row.seen = std::move(seen);
  row.ok = ok;
  rows_.push_back(std::move(row));
}

void Verdict::none(const std::string& what, const std::vector<std::string>& wrong, const std::string& of) {
  constexpr std::size_t shown = 5;
  add(what, "no difference" + (of.empty() ? of : " in " + of),
      wrong.empty() ? "none" : std::to_string(wrong.size()) + ", see below", wrong.empty());
  for (std::size_t i = 0; i < std::min(wrong.size(), shown); ++i) add("  " + wrong[i], "", "", false);
  if (wrong.size() > shown) add("  and " + std::to_string(wrong.size() - shown) + " more", "", "", false);
}

bool Verdict::clean() const {
  return std::all_of(rows_.begin(), rows_.end(), [](const Row& row) { return row.ok; });
}

void Verdict::print() const {
  std::printf("\n%-62s | %-34s | %-34s | ok\n", "what", "expected", "seen");
  for (const auto& row : rows_) {
    if (row.expected.empty()) {
      std::printf("%s\n", row.what.c_str());
    } else {
      std::printf("%-62s | %-34s | %-34s | %s\n", row.what.c_str(), row.expected.c_str(), row.seen.c_str(),
                  row.ok ? "yes" : "NO");
    }
  }
}

namespace {

/// By service and id.
std::map<std::pair<std::string, std::string>, const rig::RawEvent*> by_name(
    const std::vector<rig::RawEvent>& keys) {
  static const registry::KeyLayout layout("/genesis/services", "");
  std::map<std::pair<std::string, std::string>, const rig::RawEvent*> all;
  for (const auto& each : keys) {
    if (const auto key = layout.parse(each.key))
      all[{std::string(key->service), std::string(key->id)}] = &each;
  }
  return all;
}

std::string where(const Client& client, const std::string& what, const std::string& service,
                  const std::string& version) {
  return client.name() + ", " + what + " of " + service + (version.empty() ? "" : " " + version);
}

}  // namespace

std::vector<std::string> disagreements(const std::vector<Client*>& clients, const Final& store) {
  std::vector<std::string> wrong;
  const auto names = by_name(store.keys);
  // What a watcher of a service, or of one version of it, should have.
  const auto wanted = [&](const std::string& service, const std::string& version) {
    std::map<std::string, std::string> all;
    for (const auto& [name, key] : names) {
      if (name.first != service) continue;
      const auto decoded = registry::decode(key->value, name.first, name.second);
      if (decoded && (version.empty() || decoded.instance.version == version)) all[name.second] = key->value;
    }
    return all;
  };
  const std::set<std::int64_t> leases(store.leases.begin(), store.leases.end());
  for (const auto* client : clients) {
    if (client->views().size() != 6)
      wrong.push_back(client->name() + " has " + std::to_string(client->views().size()) + " views, not 6");
    for (const auto& each : client->views()) {
      const auto list = each.view.snapshot();
      std::map<std::string, std::string> shown;
      for (const auto& instance : list->instances) shown[instance->id] = registry::encode(*instance);
      const std::string text = where(*client, "view", each.service, each.version);
      if (list->stale) wrong.push_back(text + " is stale");
      if (const auto right = wanted(each.service, each.version); shown != right)
        wrong.push_back(text + " shows " + std::to_string(shown.size()) + " instances, other than the " +
                        std::to_string(right.size()) + " there are");
    }
    for (const auto& each : client->recordings()) {
      if (!each->whole) continue;
      const std::lock_guard lock(each->mutex);
      std::map<KeyId, std::uint64_t> applied;
      for (const auto& seen : each->log) {
        if (seen.deleted)
          applied.erase(seen.key);
        else
          applied[seen.key] = seen.content;
      }
      std::multiset<std::uint64_t> is, should;
      for (const auto& [key, content] : applied) is.insert(content);
      for (const auto& [id, value] : wanted(each->service, each->version))
        should.insert(content_of(registry::decode(value, each->service, id).instance));
      if (is != should)
        wrong.push_back(where(*client, each->slow ? "slow watch" : "watch", each->service, each->version) +
                        " leads to " + std::to_string(is.size()) + " instances, other than the " +
                        std::to_string(should.size()) + " there are");
    }
    const auto told = client->told();
    for (const auto& slot : client->slots()) {
      const auto found = names.find({slot->service, slot->id});
      const auto last = told.find(slot->id);
      if (!slot->wanted) {
        if (found != names.end())
          wrong.push_back(client->name() + ": " + slot->id + " was deregistered and is there");
        continue;
      }
      if (found == names.end()) {
        wrong.push_back(client->name() + ": " + slot->id + " is registered and not there");
        continue;
      }
      const auto decoded = registry::decode(found->second->value, slot->service, slot->id);
      if (content_of(decoded.instance) != slot->content)
        wrong.push_back(client->name() + ": " + slot->id + " has another value than its last one");
      if (!leases.contains(found->second->lease))
        wrong.push_back(client->name() + ": " + slot->id + " has no live lease");
      const bool up = last != told.end() && (last->second.back().state == RegistrationState::Registered ||
                                             last->second.back().state == RegistrationState::Restored);
      if (!up)
        wrong.push_back(client->name() + ": " + slot->id + " is there, but its last event says otherwise");
    }
  }
  return wrong;
}

namespace {

std::vector<Seen> up_to(std::int64_t revision, const Recording& recording) {
  const std::lock_guard lock(recording.mutex);
  const auto& log = recording.log;
  const auto later = [revision](const Seen& seen) { return seen.revision > revision; };
  return std::vector<Seen>(log.begin(), std::find_if(log.begin(), log.end(), later));
}

}  // namespace

void judge_logs(Verdict& verdict, const std::vector<Client*>& clients, const History& history,
                std::int64_t end, const KeyNames& names, Journal& journal) {
  std::map<std::pair<std::string, std::string>, Effects> truths;
  const auto truth_of = [&](const std::string& service, const std::string& version) -> const Effects& {
    const auto [at, is_new] = truths.try_emplace({service, version});
    if (is_new) at->second = history.effects(service, version);
    return at->second;
  };
  std::vector<std::string> watches, slow_watches, lists, ranges;
  std::size_t events = 0, logs = 0, folded = 0, relists = 0, unseen = 0, looks = 0, range_lists = 0;
  // What a watch has in its queue when that begins to fold, without what may be told exactly in front of it: an event of each
  // instance that no later one stands for.
  constexpr std::size_t queue = registry::detail::Directory::watch_queue - Stage::written_ids;
  for (const auto* client : clients) {
    for (const auto& each : client->recordings()) {
      const auto& truth = truth_of(each->service, each->version);
      const auto compared = compare(up_to(end, *each), truth, each->whole, queue, names);
      ++logs;
      events += each->log.size();
      unseen += compared.unseen;
      const std::string text =
          where(*client, each->whole ? "watch" : "short watch", each->service, each->version);
      if (each->slow) {
        if (!compared.wrong.empty()) slow_watches.push_back(text + ": " + compared.wrong);
        continue;
      }
      if (!compared.wrong.empty()) watches.push_back(text + ": " + compared.wrong);
      // Not line by line: then it says that it was folded. And no more relists than the library counts.
      if (!compared.inexact.empty()) {
        ++folded;
        if (compared.resynced == 0) watches.push_back(text + ": " + compared.inexact);
      } else if (each->whole) {
        folded += compared.folds;
        relists += compared.relists.size();
        const std::size_t counted = client->resyncs(each->service);
        if (compared.relists.size() <= counted) continue;
        watches.push_back(text + ": goes on from another state " + std::to_string(compared.relists.size()) +
                          " times, but was listed again only " + std::to_string(counted) + " times");
        for (const auto& place : compared.relists) journal.line(text + ": " + place);
      }
    }
    for (const auto* views : {&client->views(), &client->passing_views()}) {
      for (const auto& each : *views) {
        const auto& truth = truth_of(each.service, each.version);
        for (const auto& [revision, sum] : each.lists) {
          if (revision > end) break;
          ++looks;
          if (sum_of(truth.at(revision)) != sum)
            lists.push_back(where(*client, "view", each.service, each.version) + " at " +
                            std::to_string(revision) + " is not the state of that revision");
        }
      }
    }
    range_lists += client->range().lists();
    if (const auto text = client->range().compare(truth_of({}, {}), end); !text.empty())
      ranges.push_back(client->name() + ": " + text);
  }
  verdict.none("watches: ordered, each once, no gap that is not marked", watches,
               std::to_string(logs) + " logs, " + std::to_string(events) + " events");
  verdict.add("  of these folded by the queue, marked as such", "any", std::to_string(folded), true);
  verdict.add("  continued from a new list", "any", std::to_string(relists), true);
  verdict.add("  instances that had come and gone unseen before", "any", std::to_string(unseen), true);
  verdict.none("slow watches: the same, folded", slow_watches);
  verdict.none("views: each list is the state of its revision", lists, std::to_string(looks) + " looks");
  verdict.none("low-level follow: whole between its lists", ranges, std::to_string(range_lists) + " lists");
}

namespace {

/// Registered, (Lost, Restored)*, Closed; from the beginning again.
std::string broken_order(const std::vector<Told>& told) {
  bool there = false, lost = false;
  for (std::size_t i = 0; i < told.size(); ++i) {
    const std::string at = "event " + std::to_string(i + 1) + " of " + std::to_string(told.size());
    switch (told[i].state) {
      case RegistrationState::Registered:
        if (there) return at + ": registered twice";
        there = true;
        break;
      case RegistrationState::Lost:
        if (!there || lost) return at + ": lost without being there";
        lost = true;
        break;
      case RegistrationState::Restored:
        if (!there || !lost) return at + ": restored without a loss";
        lost = false;
        break;
      case RegistrationState::Displaced: return at + ": displaced, and nobody else wants the key";
      case RegistrationState::Closed: there = lost = false; break;
    }
  }
  return {};
}

}  // namespace

void judge_registrations(Verdict& verdict, const std::vector<Client*>& clients, const History& history,
                         const std::vector<Interference>& interference, const KeyNames& names,
                         Journal& journal) {
  std::vector<std::string> orders, silent;
  std::size_t events = 0, lost = 0, gone = 0, deposed = 0;
  std::set<std::int64_t> revoked;
  for (const auto& each : interference)
    if (each.lease != 0) revoked.insert(each.lease);
  for (const auto* client : clients) {
    const auto told = client->told();
    for (const auto& [id, all] : told) {
      events += all.size();
      for (const auto& each : all) lost += each.state == RegistrationState::Lost ? 1 : 0;
      if (const auto text = broken_order(all); !text.empty())
        orders.push_back(client->name() + ": " + id + ": " + text);
    }
    // A key that went away while its owner still believed in it, and nobody took it away: late.
    std::map<KeyId, const Happened*> last_put;
    for (const auto& what : history.all()) {
      if (names.service(what.seen.key) != client->service()) continue;
      if (!what.seen.deleted) {
        last_put[what.seen.key] = &what;
        continue;
      }
      const auto put = last_put.find(what.seen.key);
      if (put == last_put.end()) continue;
      const std::string name = names.text(what.seen.key), id = name.substr(name.find('/') + 1);
      const auto found = told.find(id);
      if (found == told.end()) continue;
      ++gone;
      const auto& all = found->second;
      const auto later =
          std::find_if(all.begin(), all.end(), [&](const Told& each) { return each.at > what.arrived; });
      if (later == all.begin()) continue;
      const auto state = std::prev(later)->state;
      if (state != RegistrationState::Registered && state != RegistrationState::Restored) continue;
      if (revoked.contains(put->second->lease)) continue;
      const bool deleted =
          std::any_of(interference.begin(), interference.end(), [&](const Interference& each) {
            return !each.key.empty() && each.key.ends_with("/" + name) && each.at < what.arrived + 1s &&
                   each.at > what.arrived - 15s;
          });
      if (deleted) continue;
      // The oracle may have learned of it late, and what was told takes its time to the consumer.
      const auto from = std::min(put->second->arrived - 500ms, what.arrived - 12s);
      const bool said = std::any_of(all.begin(), all.end(), [&](const Told& each) {
        return each.at >= from && each.at <= what.arrived + 1s &&
               (each.state == RegistrationState::Lost || each.state == RegistrationState::Closed);
      });
      if (said) continue;
      // A leader that stood still, and does not know yet that there is another one, revokes leases that live: 16 at
      // once, and when these have timed out in vain after 6 s the next ones, which then reach the new leader.
      const auto revokes = [&](const Interference& each) {
        return each.deposed && each.at < what.arrived + 1s && each.at > what.arrived - 8s;
      };
      if (std::any_of(interference.begin(), interference.end(), revokes)) {
        ++deposed;
        continue;
      }
      silent.push_back(client->name() + ": " + id + " went away at " + std::to_string(what.seen.revision) +
                       ", " + std::to_string(journal.offset_ms(what.arrived)) + " ms");
    }
  }
  verdict.none("registration events: in an order that makes sense", orders,
               std::to_string(events) + " events");
  verdict.none("keys that went away with their lease: Lost was said before", silent,
               std::to_string(gone) + " removals, " + std::to_string(lost) + " losses");
  verdict.add("  besides: revoked by a leader that was deposed while it stood still (etcd issue 15247)",
              "any", std::to_string(deposed), true);
}

std::string judge_oracle(const History& history, const std::vector<rig::RawEvent>& there, KeyNames& names) {
  State state, wanted;
  for (const auto& what : history.all()) {
    if (what.seen.deleted)
      state.erase(what.seen.key);
    else
      state[what.seen.key] = {what.seen.revision, what.seen.content};
  }
  for (const auto& [name, key] : by_name(there)) {
    const auto decoded = registry::decode(key->value, name.first, name.second);
    wanted[names.id(name.first, name.second)] = {key->mod_revision, content_of(decoded.instance)};
  }
  return state == wanted ? ""
                         : std::to_string(state.size()) + " keys, not the " + std::to_string(wanted.size()) +
                               " there are";
}

}  // namespace soak
