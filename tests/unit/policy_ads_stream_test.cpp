// ADS streams as transcripts: what the client asked, what the service did, what is written, with no gRPC. The
// behaviour of clients is that of gRPC C++ 1.51 and newer.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "registry/policy/ads_stream.hpp"
#include "rig/seed.hpp"

using namespace registry;

namespace {

constexpr XdsType L = XdsType::Listener, C = XdsType::Cluster, E = XdsType::Endpoints;
using Names = std::vector<std::string>;

AdsRequest ask(XdsType type, Names names, std::string nonce = "") {
  AdsRequest request;
  request.type_url = type_url(type);
  request.names = std::move(names);
  request.nonce = std::move(nonce);
  return request;
}

AdsRequest refuse(const AdsAnswer& answer, Names names, std::string words) {
  AdsRequest request = ask(answer.type, std::move(names), answer.nonce);
  request.error = std::move(words);
  return request;
}

std::string shown(const AdsAnswer& answer) {
  std::string text = answer.type == L ? "L(" : answer.type == C ? "C(" : "E(";
  for (const std::string& name : answer.names) text += (text.size() > 2 ? " " : "") + name;
  return text + ")";
}

/// Everything that is written now, in order. None of it is acknowledged.
std::string writes(AdsStream& stream) {
  std::string text;
  while (const auto answer = stream.next()) {
    stream.written();
    text += (text.empty() ? "" : " ") + shown(*answer);
  }
  return text;
}

/// The one answer that is written now.
AdsAnswer only(AdsStream& stream) {
  const auto answer = stream.next();
  REQUIRE(answer);
  stream.written();
  REQUIRE_FALSE(stream.next());
  return *answer;
}

/// A stream that follows `names` in all types, all loaded, answered and acknowledged.
AdsStream following(const Names& names) {
  AdsStream stream;
  for (const XdsType type : {L, C, E}) {
    stream.request(ask(type, names));
    for (const std::string& name : names) stream.loaded(name);
    std::string last;
    while (const auto answer = stream.next()) stream.written(), last = answer->nonce;
    stream.request(ask(type, names, last));
  }
  REQUIRE(writes(stream).empty());
  return stream;
}

}  // namespace

TEST_CASE("ads: a client comes up: listener, cluster, endpoints, each acknowledged") {
  AdsStream stream;
  CHECK_FALSE(stream.next());
  CHECK(stream.request(ask(L, {"svc"})).subscribed == Names{"svc"});
  const AdsAnswer listener = only(stream);
  CHECK(shown(listener) == "L(svc)");
  CHECK_FALSE(listener.version.empty());
  CHECK_FALSE(listener.nonce.empty());
  CHECK(stream.request(ask(L, {"svc"}, listener.nonce)).subscribed.empty());
  CHECK(writes(stream).empty());

  stream.request(ask(C, {"svc"}));
  const AdsAnswer cluster = only(stream);
  CHECK(shown(cluster) == "C(svc)");
  CHECK(cluster.nonce != listener.nonce);
  stream.request(ask(C, {"svc"}, cluster.nonce));

  CHECK(stream.request(ask(E, {"svc"})).subscribed == Names{"svc"});
  stream.loaded("svc");
  const AdsAnswer endpoints = only(stream);
  CHECK(shown(endpoints) == "E(svc)");
  stream.request(ask(E, {"svc"}, endpoints.nonce));
  CHECK(writes(stream).empty());
  CHECK(stream.nacks() == 0);
}

TEST_CASE("ads: listeners and clusters exist for any name, endpoints once they are loaded") {
  AdsStream stream;
  stream.request(ask(L, {"nobody/has heard", "of it"}));
  stream.request(ask(C, {"nobody/has heard"}));
  stream.request(ask(E, {"a", "b"}));
  CHECK(writes(stream) == "C(nobody/has heard) L(nobody/has heard of it)");
  stream.changed(E, "a");
  stream.emptied("a");
  CHECK(writes(stream).empty());  // not loaded: silence, not an empty answer
  stream.loaded("b");
  stream.loaded("unknown");
  CHECK(writes(stream) == "E(b)");
  stream.loaded("b");
  CHECK(writes(stream).empty());
  stream.loaded("a");
  CHECK(writes(stream) == "E(a)");
}

TEST_CASE(
    "ads: names piggy-back on what looks like an acknowledgement, and are answered at the same version") {
  AdsStream stream = following({"a"});
  stream.changed(L, "a");
  const AdsAnswer first = only(stream);
  // Acknowledges and asks for more at once.
  CHECK(stream.request(ask(L, {"a", "b"}, first.nonce)).subscribed == Names{"b"});
  const AdsAnswer second = only(stream);
  CHECK(shown(second) == "L(a b)");  // the full set: leaving "a" out would delete it
  CHECK(second.version == first.version);
  CHECK(second.nonce != first.nonce);
  // Asks again before it has seen the second one: an old nonce, and still its names count.
  CHECK(stream.request(ask(L, {"a", "b", "c"}, first.nonce)).subscribed == Names{"c"});
  CHECK(writes(stream) == "L(a b c)");
  CHECK(stream.request(ask(L, {"b", "d"}, "never sent")).unsubscribed == Names{"a", "c"});
  CHECK(writes(stream) == "L(b d)");
  CHECK(stream.subscriptions(L) == AdsStream::Names{"b", "d"});
}

TEST_CASE("ads: endpoints go one resource at a time, and a new name brings itself only") {
  AdsStream stream = following({"a", "b"});
  stream.changed(E, "b");
  stream.changed(E, "a");
  CHECK(writes(stream) == "E(a) E(b)");
  stream.request(ask(E, {"a", "b", "c"}, "1"));
  stream.loaded("c");
  CHECK(writes(stream) == "E(c)");
}

TEST_CASE("ads: no names means nothing is wanted, never everything") {
  AdsStream stream = following({"a", "b"});
  for (const XdsType type : {L, C, E}) {
    stream.changed(type, "a");
    if (type == E) stream.emptied("b");
    CHECK(stream.request(ask(type, {}, "1")).unsubscribed == Names{"a", "b"});
    CHECK(stream.subscriptions(type).empty());
    stream.changed(type, "a");
  }
  stream.emptied("a");
  stream.loaded("a");
  CHECK(writes(stream).empty());
  AdsStream fresh;
  fresh.request(ask(L, {}));
  fresh.request(ask(E, {}));
  CHECK(writes(fresh).empty());
}

TEST_CASE("ads: what was unsubscribed and subscribed again is sent again: the client has dropped its copy") {
  AdsStream stream = following({"a", "b"});
  for (const XdsType type : {L, C, E}) {
    CHECK(stream.request(ask(type, {"b"}, "1")).unsubscribed == Names{"a"});
    CHECK(writes(stream).empty());  // less needs no answer
    CHECK(stream.request(ask(type, {"a", "b"}, "1")).subscribed == Names{"a"});
    stream.loaded("a");
    CHECK(writes(stream) == (type == L ? "L(a b)" : type == C ? "C(a b)" : "E(a)"));
  }
  // Also while the first answer is still being written.
  stream.changed(E, "a");
  REQUIRE(stream.next());
  stream.request(ask(E, {"b"}, "1"));
  stream.request(ask(E, {"a", "b"}, "1"));
  stream.loaded("a");
  CHECK_FALSE(stream.next());
  stream.written();
  CHECK(writes(stream) == "E(a)");
}

TEST_CASE("ads: endpoints that come back must be loaded anew") {
  AdsStream stream = following({"a"});
  stream.request(ask(E, {}, "1"));
  stream.request(ask(E, {"a"}, "1"));
  stream.changed(E, "a");
  CHECK(writes(stream).empty());
  stream.loaded("a");
  CHECK(writes(stream) == "E(a)");
}

TEST_CASE(
    "ads: both requests folded into one: the same names with an acknowledged nonce are answered once more") {
  for (const XdsType type : {L, C, E}) {
    AdsStream stream = following({"a"});
    stream.changed(type, "a");
    const AdsAnswer sent = only(stream);
    stream.request(ask(type, {"a"}, sent.nonce));  // the acknowledgement
    CHECK(writes(stream).empty());
    stream.request(ask(type, {"a"}, sent.nonce));  // asked again
    const AdsAnswer again = only(stream);
    CHECK(again.names == Names{"a"});
    CHECK(again.version == sent.version);
    // A client that says everything twice is not answered for ever.
    stream.request(ask(type, {"a"}, again.nonce));
    stream.request(ask(type, {"a"}, again.nonce));
    CHECK(writes(stream).empty());
    // But once more after the next change.
    stream.changed(type, "a");
    const AdsAnswer newer = only(stream);
    stream.request(ask(type, {"a"}, newer.nonce));
    stream.request(ask(type, {"a"}, newer.nonce));
    CHECK(only(stream).names == Names{"a"});
  }
}

TEST_CASE("ads: after a reconnect the full state, also when the first request comes twice") {
  AdsStream stream;  // what version the client has from before does not matter: it is not even looked at
  CHECK(stream.request(ask(L, {"a", "b"})).subscribed == Names{"a", "b"});
  CHECK(stream.request(ask(L, {"a", "b"})).subscribed.empty());
  CHECK(writes(stream) == "L(a b)");
  CHECK(stream.request(ask(L, {"a", "b"})).subscribed.empty());  // it crossed the answer
  CHECK(writes(stream) == "L(a b)");

  stream.request(ask(E, {"a", "b"}));
  stream.loaded("a");
  stream.loaded("b");
  CHECK(shown(*stream.next()) == "E(a)");
  stream.written();
  stream.request(ask(E, {"a", "b"}));
  CHECK(writes(stream) == "E(b) E(a)");
}

TEST_CASE(
    "ads: a refusal is told by its error, belongs to the answer of its nonce, and nothing is sent again") {
  AdsStream stream = following({"a", "b"});
  stream.changed(E, "a");
  stream.changed(E, "b");
  const AdsAnswer a = *stream.next();
  stream.written();
  const AdsAnswer b = *stream.next();
  stream.written();
  CHECK(stream.request(refuse(a, {"a", "b"}, "no such address")).nacked);
  REQUIRE(stream.last_nack());
  CHECK(stream.last_nack()->type == E);
  CHECK(stream.last_nack()->name == "a");
  CHECK(stream.last_nack()->version == a.version);
  CHECK(stream.last_nack()->text == "no such address");
  CHECK_FALSE(stream.request(ask(E, {"a", "b"}, b.nonce)).nacked);
  CHECK(writes(stream).empty());
  CHECK(stream.nacks() == 1);

  stream.changed(E, "b");
  CHECK(writes(stream) == "E(b)");  // not "a"
  stream.changed(E, "a");
  const AdsAnswer better = only(stream);
  CHECK(shown(better) == "E(a)");
  CHECK(better.version != a.version);
  CHECK_FALSE(stream.request(ask(E, {"a", "b"}, better.nonce)).nacked);
  CHECK(writes(stream).empty());
}

TEST_CASE("ads: a refused set goes out again as part of the next one only") {
  AdsStream stream = following({"a"});
  stream.changed(C, "a");
  const AdsAnswer sent = only(stream);
  stream.request(refuse(sent, {"a"}, "bad cluster"));
  CHECK(stream.last_nack()->name.empty());
  CHECK(stream.last_nack()->version == sent.version);
  CHECK(writes(stream).empty());
  // Subscribes in the same breath as it refuses.
  stream.changed(C, "a");
  const AdsAnswer next = only(stream);
  stream.request(refuse(next, {"a", "b"}, "bad cluster"));
  CHECK(writes(stream) == "C(a b)");
}

TEST_CASE("ads: refusals of nothing we know, and endless ones, are taken as data") {
  AdsStream stream = following({"a"});
  AdsRequest odd = ask(L, {"a"}, "");
  odd.error = std::string(1'000'000, '%');
  CHECK(stream.request(odd).nacked);
  CHECK(writes(stream).empty());  // no answer, or it would be refused again
  CHECK(stream.last_nack()->text.size() == AdsStream::max_text);
  CHECK(stream.last_nack()->version.empty());
  odd.nonce = "4711";
  stream.request(odd);
  CHECK(stream.nacks() == 2);
  CHECK(writes(stream).empty());
  // A nonce of another type is not ours.
  stream.changed(E, "a");
  AdsAnswer sent = only(stream);
  sent.type = C;
  stream.request(refuse(sent, {"a"}, "mixed up"));
  CHECK(stream.last_nack()->name.empty());
}

TEST_CASE("ads: a client that never acknowledges is served, and what is remembered of it is bounded") {
  AdsStream stream;
  stream.request(ask(E, {"a"}));
  stream.loaded("a");
  const AdsAnswer first = only(stream);
  for (std::size_t i = 0; i < 2 * AdsStream::max_unsettled; ++i) {
    stream.changed(E, "a");
    CHECK(writes(stream) == "E(a)");
  }
  stream.request(refuse(first, {"a"}, "late"));
  CHECK(stream.last_nack()->version.empty());
}

TEST_CASE("ads: one answer is written at a time; what changed meanwhile is sent once") {
  AdsStream stream = following({"a", "b"});
  stream.changed(E, "a");
  const auto writing = stream.next();
  REQUIRE(writing);
  for (int i = 0; i < 3; ++i) {
    stream.changed(E, "a");
    stream.changed(E, "b");
    stream.changed(L, "b");
    CHECK_FALSE(stream.next());
  }
  stream.written();
  const auto newest = stream.next();
  REQUIRE(newest);
  CHECK(newest->version > writing->version);
  stream.written();
  CHECK(shown(*newest) == "E(a)");
  CHECK(writes(stream) == "E(b) L(a b)");
}

TEST_CASE("ads: make before break: what a listener sends calls to comes before it and goes after it") {
  AdsStream stream = following({"v1", "v2"});
  SUBCASE("a new version: first its endpoints, then the share") {
    stream.changed(L, "v1");
    stream.changed(C, "v2");
    stream.changed(E, "v2");
    CHECK(writes(stream) == "C(v1 v2) E(v2) L(v1 v2)");
  }
  SUBCASE("its last instance leaves: first the share, then the endpoints") {
    stream.emptied("v2");
    stream.changed(L, "v1");
    stream.changed(E, "v1");
    CHECK(writes(stream) == "E(v1) L(v1 v2) E(v2)");
  }
  SUBCASE("it leaves and comes back before that was written") {
    stream.changed(L, "v1");
    stream.emptied("v2");
    stream.changed(E, "v2");
    CHECK(writes(stream) == "E(v2) L(v1 v2)");
  }
  SUBCASE("it comes and leaves before that was written") {
    stream.changed(E, "v2");
    stream.changed(L, "v1");
    stream.emptied("v2");
    CHECK(writes(stream) == "L(v1 v2) E(v2)");
  }
  SUBCASE("no listener changes: empty at once") {
    stream.emptied("v2");
    CHECK(writes(stream) == "E(v2)");
  }
  SUBCASE("the share changes once more while the listener waits") {
    stream.changed(L, "v1");
    stream.changed(C, "v1");
    CHECK(shown(*stream.next()) == "C(v1 v2)");
    stream.changed(E, "v2");
    stream.changed(L, "v1");
    stream.written();
    CHECK(writes(stream) == "E(v2) L(v1 v2)");
  }
  SUBCASE("all of it happens while something else is written") {
    stream.changed(E, "v1");
    REQUIRE(stream.next());
    stream.changed(L, "v1");
    stream.emptied("v1");
    stream.changed(E, "v2");
    stream.written();
    CHECK(writes(stream) == "E(v2) L(v1 v2) E(v1)");
  }
}

TEST_CASE("ads: a busy service does not keep listeners out, nor busy listeners the emptied endpoints") {
  AdsStream stream = following({"a", "b"});
  stream.changed(E, "a");
  stream.changed(E, "b");
  stream.request(ask(L, {"a", "b", "new"}, "1"));
  std::string written;
  for (int i = 0; i < 3; ++i) {
    written += shown(*stream.next()) + " ";
    stream.written();
    stream.changed(E, "a");
  }
  CHECK(written == "E(a) E(b) L(a b new) ");
  writes(stream);
  stream.emptied("b");
  stream.changed(L, "a");
  written.clear();
  for (int i = 0; i < 2; ++i) {
    written += shown(*stream.next()) + " ";
    stream.written();
    stream.changed(L, "a");
  }
  CHECK(written == "L(a b new) E(b) ");
}

TEST_CASE("ads: types that are not served are ignored, whatever they say") {
  AdsStream stream = following({"a"});
  for (const char* url : {"type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "", "Listener"}) {
    AdsRequest request = ask(L, {"x", "y"});
    request.type_url = url;
    const AdsOutcome outcome = stream.request(request);
    CHECK_FALSE(outcome.type);
    CHECK(outcome.refusal.empty());
    CHECK(outcome.subscribed.empty());
  }
  CHECK(writes(stream).empty());
  CHECK(stream.subscriptions(L) == AdsStream::Names{"a"});
  for (const XdsType type : {L, C, E}) CHECK(xds_type(type_url(type)) == type);
}

TEST_CASE("ads: too many names are refused in words, and change nothing") {
  AdsStream stream(3);
  stream.request(ask(L, {"a", "b", "c", "a"}));  // the same name twice is one
  CHECK(writes(stream) == "L(a b c)");
  const AdsOutcome refused = stream.request(ask(L, {"a", "b", "c", "d"}));
  CHECK_FALSE(refused.type);
  CHECK(refused.refusal ==
        "asks for 4 names of type.googleapis.com/envoy.config.listener.v3.Listener, at most 3 are served on "
        "one "
        "stream");
  CHECK(stream.subscriptions(L).size() == 3);
  CHECK(writes(stream).empty());
  CHECK(stream.request(ask(C, {"a", "b", "c"})).refusal.empty());  // of each type
}

TEST_CASE(
    "ads: the client ends up with the newest of all it follows, whatever crosses what, 300 random runs") {
  std::mt19937_64 random(rig::test_seed("ads"));
  const auto pick = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  const Names all = {"a", "b", "c", "d"};

  for (int run = 0; run < 300; ++run) {
    AdsStream stream;
    std::map<std::string, int> content[3];  // what the server has, and the client
    std::set<std::string> loaded;
    std::map<std::string, int> copy[3];
    std::set<std::string> wanted[3];
    std::string nonce[3];
    std::deque<AdsRequest> up;
    struct Down {
      AdsAnswer answer;
      std::map<std::string, int> resources;
    };
    std::deque<Down> down;
    for (auto& each : content) {
      for (const std::string& name : all) each[name] = 0;
    }

    const auto send = [&](int type, bool error = false) {
      AdsRequest request =
          ask(static_cast<XdsType>(type), Names(wanted[type].begin(), wanted[type].end()), nonce[type]);
      if (error) request.error = "refused";
      up.push_back(std::move(request));
    };
    const auto client_reads = [&] {
      const Down got = std::move(down.front());
      down.pop_front();
      const int type = static_cast<int>(got.answer.type);
      nonce[type] = got.answer.nonce;
      if (got.answer.type != E) {  // the state of the world: what is not there is deleted
        std::erase_if(copy[type], [&](const auto& had) { return !got.resources.contains(had.first); });
      }
      for (const auto& [name, value] : got.resources) {
        if (wanted[type].contains(name)) copy[type][name] = value;
      }
      send(type, pick(10) == 0);  // a refusal of one bad resource: the others are applied
    };
    const auto server_reads = [&] {
      const AdsOutcome outcome = stream.request(up.front());
      up.pop_front();
      if (outcome.type == E) {
        for (const std::string& name : outcome.subscribed) {
          if (loaded.contains(name)) stream.loaded(name);
        }
      }
    };
    const auto server_writes = [&] {
      const auto answer = stream.next();
      if (!answer) return false;
      Down made{*answer, {}};
      const int type = static_cast<int>(answer->type);
      REQUIRE((answer->type != E || answer->names.size() == 1));
      for (const std::string& name : answer->names) {
        REQUIRE((answer->type != E || loaded.contains(name)));
        made.resources[name] = content[type][name];
      }
      down.push_back(std::move(made));
      if (pick(2) == 0) stream.written();
      return true;
    };

    for (int step = 0; step < 200; ++step) {
      const int type = static_cast<int>(pick(3));
      const std::string& name = all[pick(all.size())];
      switch (pick(7)) {
        case 0:
          if (wanted[type].insert(name).second) send(type);
          break;
        case 1:
          if (wanted[type].erase(name) == 1) copy[type].erase(name), send(type);
          break;
        case 2:
          ++content[type][name];
          if (type == 2 && pick(2) == 0) {
            stream.emptied(name);
          } else {
            stream.changed(static_cast<XdsType>(type), name);
          }
          break;
        case 3:
          if (loaded.insert(name).second) stream.loaded(name);
          break;
        case 4:
          if (!up.empty()) server_reads();
          break;
        case 5:
          if (!down.empty()) client_reads();
          break;
        default: stream.written(); server_writes();
      }
    }
    for (const std::string& name : all) {
      if (loaded.insert(name).second) stream.loaded(name);
    }
    stream.written();
    for (int quiet = 0; quiet < 3;) {  // it also falls silent
      ++quiet;
      if (!up.empty()) server_reads(), quiet = 0;
      if (!down.empty()) client_reads(), quiet = 0;
      if (server_writes()) quiet = 0;
      stream.written();
    }
    for (int type = 0; type < 3; ++type) {
      CAPTURE(type);
      for (const std::string& name : wanted[type]) {
        CAPTURE(name);
        const bool right = copy[type].contains(name) && copy[type][name] == content[type][name];
        if (!right) std::cerr << "run " << run << "\n";
        REQUIRE(right);
      }
    }
  }
}
