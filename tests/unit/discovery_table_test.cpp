// The table of one service: what a list or a batch changes in it, and what it says it knows.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "registry/discovery/instance_table.hpp"
#include "registry/discovery/view_state.hpp"
#include "registry/model/encode.hpp"
#include "rig/seed.hpp"

using namespace registry;
using namespace registry::detail;

namespace {

KeyValue pair(const std::string& id, std::int64_t revision, const std::string& version = "1") {
  ServiceInstance instance("svc", id);
  instance.version = version;
  KeyValue made;
  made.key = "/ns/svc/" + id;
  made.mod_revision = revision;
  made.value = version == "bad" ? "{" : encode(instance);
  return made;
}

std::string shown(const std::vector<InstanceChange>& changes) {
  std::string text;
  for (const auto& change : changes) {
    text += (change.before ? change.before->id + change.before->version : "") + ">" +
            (change.after ? change.after->id + change.after->version : "") + "@" +
            std::to_string(change.revision) + (change.resynced ? "~ " : " ");
  }
  return text;
}

struct Table : InstanceTable {
  explicit Table(double disappearance_limit = 1.0)
      : InstanceTable("svc", KeyLayout("/ns"), Observer(),
                      DisappearanceGuard(disappearance_limit, std::chrono::hours(1))) {}

  /// "a b+c": b is held.
  std::string view(const ServiceFilter& filter = {}) const {
    const auto snapshot = std::move(this->snapshot(filter).list);
    std::string text;
    for (const auto& each : snapshot->instances) text += (text.empty() ? "" : " ") + each->id;
    return text + (snapshot->held > 0 ? ", held " + std::to_string(snapshot->held) : "");
  }

  std::string list(std::vector<KeyValue> items, std::int64_t revision, bool same_history = true,
                   bool first = false) {
    begin_list();
    Page page;
    page.items = std::move(items);
    list_page(page, same_history);
    return shown(end_list(revision, same_history, first));
  }
  std::string put(KeyValue item) {
    Batch batch;
    batch.through = item.mod_revision;
    batch.changes.emplace_back().kv = std::move(item);
    return shown(apply(batch));
  }
  std::string erase(const std::string& id, std::int64_t revision) {
    Batch batch;
    batch.through = revision;
    Change& change = batch.changes.emplace_back();
    change.deleted = true;
    change.kv.key = "/ns/svc/" + id;
    change.kv.mod_revision = revision;
    return shown(apply(batch));
  }
};

TEST_CASE("table: a list that was brought up to date is as one made anew, and lists in use do not change") {
  const std::uint64_t seed = rig::test_seed("discovery_table");
  std::mt19937_64 random(seed);
  const auto below = [&random](std::uint64_t most) { return random() % most; };
  const auto some_pair = [&below](std::int64_t revision) {
    static const char* const versions[] = {"1", "2", "bad"};
    return pair(std::string(1, static_cast<char>('a' + below(12))), revision, versions[below(3)]);
  };
  const auto shown = [](const ServiceSnapshot& list) {
    std::string text =
        std::to_string(list.revision) + (list.stale ? " stale" : "") + " held " + std::to_string(list.held);
    for (const auto& each : list.instances) text += " " + each->id + each->version;
    return text;
  };
  Table table(0.7);
  std::int64_t revision = 1;
  table.list({}, revision, true, true);
  const ServiceFilter filters[] = {ServiceFilter(), ServiceFilter().version("2")};
  const std::shared_ptr<SnapshotRecycler> recyclers[] = {std::make_shared<SnapshotRecycler>(),
                                                         std::make_shared<SnapshotRecycler>()};
  std::deque<std::pair<std::shared_ptr<const ServiceSnapshot>, std::string>> in_use;
  std::set<const ServiceSnapshot*> places;
  int made = 0;
  for (int step = 0; step < 3000; ++step) {
    switch (below(20)) {
      case 0: {
        std::vector<KeyValue> items;
        for (char id = 'a'; id < 'm'; ++id) {
          if (below(2) == 0) items.push_back(pair(std::string(1, id), ++revision));
        }
        table.list(items, ++revision, below(2) == 0);
        break;
      }
      case 1: table.mark_stale(); break;
      case 2: table.mark_fresh(); break;
      case 3: table.release(std::chrono::steady_clock::now() + std::chrono::hours(below(2) * 2)); break;
      case 4:
        for (auto more = below(100); more > 0; --more) table.put(some_pair(++revision));
        break;
      case 5:
      case 6:
      case 7: table.erase(std::string(1, static_cast<char>('a' + below(12))), ++revision); break;
      default: table.put(some_pair(++revision));
    }
    if (below(3) == 0) continue;  // several changes before anybody reads
    const std::size_t which = below(2);
    const auto list = recyclers[which]->lend(table.snapshot(filters[which], recyclers[which]->take()));
    CAPTURE(step);
    CHECK(shown(*list) == shown(*table.snapshot(filters[which]).list));
    in_use.emplace_back(list, shown(*list));
    places.insert(list.get());
    ++made;
    while (in_use.size() > below(5)) {
      CHECK(shown(*in_use.front().first) == in_use.front().second);
      in_use.pop_front();
    }
  }
  CHECK(made > 1000);
  CHECK(2 * static_cast<int>(places.size()) < made);  // most were there before
}

}  // namespace

TEST_CASE("table: lists are differences, removals first") {
  Table table;
  CHECK(table.list({pair("a", 2), pair("b", 3), pair("c", 4)}, 9, true, true) == ">a1@2 >b1@3 >c1@4 ");
  CHECK(table.list({pair("a", 2), pair("aa", 12), pair("c", 11, "2")}, 20) == "b1>@20~ >aa1@12~ c1>c2@11~ ");
  CHECK(table.list({pair("a", 2), pair("aa", 12), pair("c", 13, "bad")}, 21) == "c2>@13~ ");
  CHECK(table.list({pair("a", 2), pair("aa", 12), pair("c", 14)}, 22) == ">c1@14~ ");
  CHECK(table.snapshot({}).list->revision == 22);
}

TEST_CASE("table: a list that was begun again forgets the pages before") {
  Table table;
  table.begin_list();
  Page page;
  page.items = {pair("gone", 2)};
  table.list_page(page, true);
  CHECK(table.list({pair("a", 3)}, 5, true, true) == ">a1@3 ");
}

TEST_CASE("table: equal revisions of another history prove nothing") {
  Table table;
  table.list({pair("a", 2), pair("b", 3)}, 9, true, true);
  CHECK(table.list({pair("a", 2, "2"), pair("b", 3)}, 9, false) == "a1>a2@2~ ");
  CHECK(table.list({pair("a", 1, "2"), pair("b", 3)}, 9, false) == "a2>a2@1~ ");
}

TEST_CASE("table: changes, and what is not newer changes nothing") {
  Table table;
  table.list({pair("a", 5)}, 9, true, true);
  CHECK(table.put(pair("a", 5, "2")).empty());
  CHECK(table.erase("a", 4).empty());
  CHECK(table.erase("none", 10).empty());
  CHECK(table.put(pair("a", 11, "2")) == "a1>a2@11 ");
  CHECK(table.put(pair("b", 12)) == ">b1@12 ");
  CHECK(table.put(pair("b", 13, "bad")) == "b1>@13 ");
  CHECK(table.put(pair("b", 14, "bad")).empty());
  CHECK(table.put(pair("b", 15)) == ">b1@15 ");
  CHECK(table.erase("b", 16) == "b1>@16 ");
  CHECK(table.put(pair("a/inner", 17)).empty());
  CHECK(table.snapshot({}).list->instances.size() == 1);
  CHECK(table.snapshot(ServiceFilter().version("1")).list->instances.empty());
}

TEST_CASE("table: it knows every key, also those that are no instances") {
  Table table;
  table.list({pair("a", 2), pair("a/inner", 3), pair("b", 4, "bad")}, 9, true, true);
  const std::vector<std::pair<std::string, std::int64_t>> known{
      {"/ns/svc/a", 2}, {"/ns/svc/a/inner", 3}, {"/ns/svc/b", 4}};
  CHECK(table.known() == known);
  table.erase("a/inner", 10);
  table.put(pair("b", 11));
  CHECK(table.known() ==
        std::vector<std::pair<std::string, std::int64_t>>{{"/ns/svc/a", 2}, {"/ns/svc/b", 11}});
}

TEST_CASE("view: a list that the store confirms says how far it goes at the next look, and nobody is woken") {
  const auto table = std::make_shared<Table>();
  ViewState view{ServiceFilter()};
  view.attach(table);
  table->list({pair("a", 2)}, 5, true, true);
  view.changed({}, true);
  const auto before = view.current();
  CHECK(before->revision == 5);
  Batch progress;
  progress.through = 9;
  CHECK(table->apply(progress).empty());
  view.confirmed();
  const auto after = view.current();
  CHECK(after->revision == 9);
  CHECK(after->as_of >= before->as_of);
  CHECK(after->instances == before->instances);
  CHECK(before->revision == 5);
  CHECK(view.version() == 1);  // what next() goes by
}

TEST_CASE("table: what vanishes all at once is told as gone, and shown all the same") {
  Table table(0.5);
  CHECK(table.list({pair("a", 2), pair("b", 3), pair("c", 4, "2"), pair("d", 5)}, 9, true, true) ==
        ">a1@2 >b1@3 >c2@4 >d1@5 ");
  CHECK(table.list({pair("b", 3)}, 20) == "a1>@20~ c2>@20~ d1>@20~ ");
  CHECK(table.view() == "a b c d, held 3");
  CHECK(table.view(ServiceFilter().version("2")) == "c, held 1");
  CHECK(table.live() == 1);
  CHECK(table.pairs().size() == 1);
  CHECK(table.erase("b", 21) == "b1>@21 ");
  CHECK(table.view() == "a b c d, held 4");

  SUBCASE("one that comes back is as the store says") {
    CHECK(table.put(pair("c", 22, "3")) == ">c3@22 ");
    CHECK(table.view() == "a b c d, held 3");
    CHECK(table.snapshot({}).list->find("c")->version == "3");
    SUBCASE("enough come back: the rest is gone") {
      CHECK(table.put(pair("e", 23)) == ">e1@23 ");
      CHECK(table.view() == "c e");
    }
  }
  SUBCASE("it is believed after a while") {
    const auto now = std::chrono::steady_clock::now();
    CHECK(table.release_due() > now + std::chrono::minutes(59));
    table.release(now + std::chrono::minutes(59));
    CHECK(table.view() == "a b c d, held 4");
    table.release(now + std::chrono::minutes(61));
    CHECK(table.view() == "");
    CHECK(table.release_due() == std::chrono::steady_clock::time_point::max());
  }
  SUBCASE("gone and back in one batch") {
    Table other(0.0);
    other.list({pair("a", 2), pair("b", 3)}, 9, true, true);
    Batch batch;
    batch.through = 12;
    for (const std::string id : {"a", "b"}) {
      Change& change = batch.changes.emplace_back();
      change.deleted = true;
      change.kv.key = "/ns/svc/" + id;
      change.kv.mod_revision = 11;
    }
    batch.changes.emplace_back().kv = pair("a", 12);
    other.apply(batch);
    CHECK(other.view() == "a b, held 1");
  }
}
