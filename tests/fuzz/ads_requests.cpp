// The ADS request handler: what a client may send on one stream, as messages and as bytes that are none, between publications
// and answers. The input is a script; a model beside it knows what must be answered. Properties: a request is read as it was
// written; an answer names what is asked for, all of it (endpoints: one that is loaded), with a new nonce and a version that
// rises with changes; no change is left unsaid; clusters come before endpoints, these before listeners, and those that became
// none last; too many names are refused and change nothing; a client that acknowledges, once or again and again, comes to rest;
// state does not grow with the number of answers; resources of any name can be built and parsed.
#include <google/protobuf/stubs/common.h>
#include <grpcpp/grpcpp.h>
#include <sanitizer/allocator_interface.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "property.hpp"
#include "registry/policy/ads_stream.hpp"
#include "registry/rpc/ads_table.hpp"
#include "registry/rpc/xds_resources.hpp"

namespace xds = registry::detail::xds;
using registry::AdsAnswer;
using registry::AdsOutcome;
using registry::AdsRequest;
using registry::XdsType;

namespace {

using Names = std::set<std::string, std::less<>>;

constexpr std::size_t max_names = 8;
constexpr std::array types = {XdsType::Listener, XdsType::Cluster, XdsType::Endpoints};
constexpr std::array<std::string_view, 12> known_names = {
    "a", "b", "c", "d", "e", "f/v1", "f/v%32", "", "\xc3\xa9", "r1/\"", "long long long long name", "*"};

std::size_t index(XdsType type) { return static_cast<std::size_t>(type); }

std::optional<AdsRequest> read(std::string_view bytes, bool in_two) {
  const std::size_t cut = in_two ? bytes.size() / 2 : bytes.size();
  const grpc::Slice parts[] = {grpc::Slice(std::string(bytes.substr(0, cut))),
                               grpc::Slice(std::string(bytes.substr(cut)))};
  grpc::ByteBuffer buffer(parts, in_two ? 2 : 1);
  return registry::detail::read_request(buffer);
}

/// What AdsTable does with one stream, and what must come of it.
class Client {
 public:
  void request(const AdsRequest& sent) {
    const std::optional<XdsType> type = registry::xds_type(sent.type_url);
    const Names wanted(sent.names.begin(), sent.names.end());
    const auto refused_before = stream_.nacks();
    const AdsOutcome outcome = stream_.request(sent);
    if (!type || wanted.size() > max_names) {
      fuzz::check(outcome.refusal.empty() == !type && !outcome.type,
                  "unknown types are ignored, too many names refused");
      if (type) fuzz::check_message(outcome.refusal, 300);
      for (const XdsType each : types)
        fuzz::check(stream_.subscriptions(each) == names(each), "nothing is changed then");
      fuzz::check(stream_.nacks() == refused_before, "nor counted");
      return;
    }
    fuzz::check(outcome.type == type && outcome.refusal.empty(), "a request is taken");
    check_refusal(*type, sent, outcome, refused_before);
    check_difference(*type, wanted, outcome);
    settle(*type, sent.nonce);
    names(*type) = wanted;
    fuzz::check(stream_.subscriptions(*type) == wanted, "a client follows what it asked for last");
    for (const std::string& name : outcome.unsubscribed) {
      due(*type).erase(name);
      if (*type == XdsType::Endpoints) loaded_.erase(name), emptied_.erase(name);
    }
    for (const std::string& name : outcome.subscribed) {
      if (*type != XdsType::Endpoints) {
        due(*type).insert(name);
      } else if (table_.contains(name)) {
        load(name);
      }
    }
  }

  void publish(XdsType type, const std::string& name, bool none) {
    if (type == XdsType::Endpoints && table_.insert(name).second) load(name);
    const bool counts = names(type).contains(name) && (type != XdsType::Endpoints || loaded_.contains(name));
    if (none && type == XdsType::Endpoints) {
      stream_.emptied(name);
      if (counts) emptied_.insert(name);
    } else {
      stream_.changed(type, name);
      if (counts && type == XdsType::Endpoints) emptied_.erase(name);
    }
    if (!counts) return;
    due(type).insert(name);
    changed_[index(type)] = true;
  }
  /// Takes the endpoints of a name out of the table; or tells of some before they are loaded, which is ignored.
  void withdraw(const std::string& name, bool none) {
    table_.erase(name);
    if (loaded_.contains(name)) return;
    none ? stream_.emptied(name) : stream_.changed(XdsType::Endpoints, name);
  }

  /// One answer, if there is one.
  std::optional<AdsAnswer> answer() {
    const std::optional<AdsAnswer> made = stream_.next();
    if (!made) {
      for (const XdsType type : types) fuzz::check(due(type).empty(), "no change is left unsaid");
      return made;
    }
    fuzz::check(!stream_.next(), "one answer is written at a time");
    const Names said(made->names.begin(), made->names.end());
    fuzz::check(said.size() == made->names.size() && !said.empty(),
                "an answer names each once, and something");
    if (made->type == XdsType::Endpoints) {
      fuzz::check(said.size() == 1 && loaded_.contains(*said.begin()),
                  "endpoints one by one, once they are loaded");
    } else {
      fuzz::check(said == names(made->type), "listeners and clusters are answered as a set");
    }
    fuzz::check(nonces_.insert(made->nonce).second && !made->nonce.empty(), "a nonce is new");
    const unsigned long version = std::strtoul(made->version.c_str(), nullptr, 10);
    unsigned long& last = versions_[index(made->type)];
    fuzz::check(version > last || (version == last && !changed_[index(made->type)]),
                "a version rises with changes");
    last = version;
    changed_[index(made->type)] = false;
    const bool late = made->type == XdsType::Endpoints && emptied_.contains(*said.begin());
    const int turn = made->type == XdsType::Cluster ? 0 : made->type == XdsType::Listener ? 2 : late ? 3 : 1;
    fuzz::check(!ordered_ || turn >= turn_, "clusters, endpoints, listeners, endpoints that became none");
    turn_ = turn;
    for (const std::string& name : said) {
      due(made->type).erase(name);
      if (made->type == XdsType::Endpoints) emptied_.erase(name);
    }
    open_[index(made->type)] = *made;
    last_[index(made->type)] = *made;
    return made;
  }
  void written() { stream_.written(); }

  /// Everything that is to be written. How many answers.
  std::size_t drain() {
    std::size_t count = 0;
    stream_.written();
    while (answer()) {
      stream_.written();
      fuzz::check(++count <= 2 + max_names, "what waits is bounded");
    }
    ordered_ = true;
    turn_ = 0;
    return count;
  }
  /// Told between two answers: nothing about the order of what was told before the first of them.
  void disturb() { ordered_ = false; }

  AdsRequest acknowledgement(XdsType type) const {
    AdsRequest made;
    made.type_url = registry::type_url(type);
    made.names.assign(names_[index(type)].begin(), names_[index(type)].end());
    if (last_[index(type)]) made.nonce = last_[index(type)]->nonce;
    return made;
  }

  void come_to_rest() {
    drain();
    for (int round = 0; round < 4; ++round) {
      for (const XdsType type : types) {
        const AdsRequest sent = acknowledgement(type);
        if (sent.nonce.empty()) continue;
        request(sent);
        const std::size_t answers = drain();
        fuzz::check(round < 2 || answers == 0, "a client that acknowledges again is not answered for ever");
      }
    }
  }

  /// Answers without an acknowledgement, many.
  void be_busy() {
    if (names(XdsType::Endpoints).empty()) return;
    const std::string name = *names(XdsType::Endpoints).begin();
    publish(XdsType::Endpoints, name, false);
    drain();
    // The first few hundred are remembered; from then on none more is.
    std::size_t before = 0;
    for (int i = 0; i < 1000; ++i) {
      if (i == 500) before = __sanitizer_get_current_allocated_bytes();
      stream_.changed(XdsType::Endpoints, name);
      fuzz::check(stream_.next().has_value(), "a change is answered");
      stream_.written();
    }
    const std::size_t after = __sanitizer_get_current_allocated_bytes();
    fuzz::check(after <= before + 4096, "state does not grow with answers");
    versions_[index(XdsType::Endpoints)] += 1000;
    open_ = {};
    forgotten_ = true;
  }

  std::string nonce(unsigned choice, fuzz::Script& script) const {
    if (choice == 0 || nonces_.empty()) return "";
    if (choice == 1) return std::string(script.take(script.below(4)));
    if (choice == 2) return *std::next(nonces_.begin(), static_cast<int>(script.byte() % nonces_.size()));
    const auto& last = last_[(choice - 3) % 3];
    return last ? last->nonce : "";
  }

 private:
  Names& names(XdsType type) { return names_[index(type)]; }
  Names& due(XdsType type) { return due_[index(type)]; }

  void load(const std::string& name) {
    stream_.loaded(name);
    if (names(XdsType::Endpoints).contains(name) && loaded_.insert(name).second)
      due(XdsType::Endpoints).insert(name);
  }

  void check_difference(XdsType type, const Names& wanted, const AdsOutcome& outcome) {
    std::vector<std::string> more, fewer;
    const Names& had = names(type);
    std::set_difference(wanted.begin(), wanted.end(), had.begin(), had.end(), std::back_inserter(more));
    std::set_difference(had.begin(), had.end(), wanted.begin(), wanted.end(), std::back_inserter(fewer));
    fuzz::check(outcome.subscribed == more && outcome.unsubscribed == fewer,
                "what is new, and no longer wanted");
  }

  void check_refusal(XdsType type, const AdsRequest& sent, const AdsOutcome& outcome, std::uint64_t before) {
    fuzz::check(outcome.nacked == sent.error.has_value(), "an error is a refusal");
    fuzz::check(stream_.nacks() == before + (outcome.nacked ? 1 : 0), "refusals are counted");
    if (!outcome.nacked) return;
    const auto& nack = stream_.last_nack();
    fuzz::check(nack && nack->type == type, "the last refusal is known");
    fuzz::check(nack->text == sent.error->substr(0, 1024), "its words are kept, and bounded", nack->text);
    const auto& open = open_[index(type)];
    if (open && open->nonce == sent.nonce) {
      fuzz::check(nack->version == open->version, "and what was refused");
      fuzz::check(nack->name == (type == XdsType::Endpoints ? open->names[0] : ""), "of endpoints, whose");
    } else if (!nonces_.contains(sent.nonce) && !forgotten_) {
      fuzz::check(nack->version.empty() && nack->name.empty(),
                  "an unknown nonce refuses nothing that is known");
    }
  }

  void settle(XdsType type, const std::string& nonce) {
    if (open_[index(type)] && open_[index(type)]->nonce == nonce) open_[index(type)].reset();
  }

  registry::AdsStream stream_{max_names};
  std::array<Names, 3> names_;  // asked for
  std::array<Names, 3> due_;    // must be said
  std::array<bool, 3> changed_{};
  std::array<unsigned long, 3> versions_{};
  std::array<std::optional<AdsAnswer>, 3> last_, open_;
  Names table_, loaded_, emptied_, nonces_;
  bool ordered_ = true, forgotten_ = false;
  int turn_ = 0;
};

AdsRequest scripted_request(const Client& client, fuzz::Script& script) {
  xds::DiscoveryRequest message;
  AdsRequest wanted;
  const unsigned type = script.below(16);
  wanted.type_url = type < 15 ? registry::type_url(types[type % 3]) : "type.googleapis.com/else";
  wanted.nonce = client.nonce(script.below(8), script);
  const unsigned mask = script.byte() | (script.one_in(8) ? 0xf00u : 0u);
  for (std::size_t i = 0; i < known_names.size(); ++i) {
    if (mask >> i & 1) wanted.names.emplace_back(known_names[i]);
  }
  if (script.one_in(6)) wanted.error = std::string(script.below(8) * 200, 'x');
  if (!registry::detail::is_utf8(wanted.nonce)) wanted.nonce.clear();
  message.set_type_url(wanted.type_url);
  message.set_response_nonce(wanted.nonce);
  for (const std::string& name : wanted.names) message.add_resource_names(name);
  if (wanted.error) message.mutable_error_detail()->set_message(*wanted.error);
  const std::optional<AdsRequest> got = read(message.SerializeAsString(), script.one_in(2));
  fuzz::check(got && got->type_url == wanted.type_url && got->nonce == wanted.nonce &&
                  got->names == wanted.names && got->error == wanted.error,
              "a request is read as it was written");
  return wanted;
}

/// Names come from clients: whatever they are, what is described for them can be parsed.
void check_described(const std::string& name) {
  const std::string cluster = registry::detail::ClusterName::of(name);
  xds::Listener listener;
  const std::string bytes = registry::detail::listener_resource(name, cluster, {}, {});
  fuzz::check(listener.ParseFromString(bytes) && listener.name() == name, "a listener of any name", name);
  xds::HttpConnectionManager manager;
  fuzz::check(manager.ParseFromString(listener.api_listener().api_listener().value()), "its routes", name);
  fuzz::check(manager.route_config().virtual_hosts(0).routes(0).route().cluster() == cluster,
              "to its cluster", name);
  xds::Cluster made;
  fuzz::check(made.ParseFromString(registry::detail::cluster_resource(name, {})) && made.name() == name,
              "a cluster", name);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);  // every message that is none is told there
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 1024) return -1;
  fuzz::Script script(data, size);
  Client client;
  bool busy = false;
  while (!script.ended()) {
    const unsigned what = script.below(16);
    switch (what) {
      case 0:
      case 1:
      case 2:
      case 3: client.request(scripted_request(client, script)); break;
      case 4: {
        const std::string_view bytes = script.take(script.byte());
        if (const auto request = read(bytes, script.one_in(2))) {
          for (const std::string& asked : request->names) check_described(asked);
          client.request(*request);
        }
        break;
      }
      case 5: client.request(client.acknowledgement(types[script.below(3)])); break;
      case 6:
      case 7:
      case 8: {
        const unsigned which = script.byte();
        client.publish(types[which % 3], std::string(known_names[which / 3 % known_names.size()]), false);
        break;
      }
      case 9:
      case 10:
        client.publish(XdsType::Endpoints, std::string(known_names[script.below(known_names.size())]),
                       script.one_in(2));
        break;
      case 11:
        client.withdraw(std::string(known_names[script.below(known_names.size())]), script.one_in(2));
        break;
      case 12:
        client.written();
        client.answer();
        client.disturb();
        break;
      case 13:
        if (!std::exchange(busy, true)) client.be_busy();
        break;
      default: client.drain();
    }
  }
  client.come_to_rest();
  return 0;
}
