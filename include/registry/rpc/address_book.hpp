// The IP addresses behind the endpoints of instances. xDS carries addresses only, so names are resolved here,
// and again every while; what was known stays until there is something better.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/ip/address.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/home.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/model/endpoint.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/text.hpp"
#include "registry/observe/observer.hpp"
#include "registry/rpc/grpc_endpoints.hpp"

namespace registry::detail {

/// An address a client may connect to: nobody listens at a wildcard, and a group is no server.
inline bool is_connectable(const asio::ip::address& address) {
  return !address.is_unspecified() && !address.is_multicast();
}

/// Lives on its home's strand.
class AddressBook : public std::enable_shared_from_this<AddressBook> {
 public:
  using Clock = std::chrono::steady_clock;

  /// `changed` is called when a name got other addresses, or its first answer.
  AddressBook(Home home, Observer observer, std::chrono::milliseconds refresh, std::function<void()> changed)
      : observer_(std::move(observer)),
        refresh_(refresh),
        tasks_(std::move(home)),
        changed_(std::move(changed)) {}

  /// What is known of a host; asks for it if that is old. Literals are their own answer. `settled`: whether
  /// there was an answer yet, if only that there is none.
  struct Known {
    std::vector<std::string> addresses;
    bool settled = true;
    bool name = false;  // to be asked for again
  };
  Known lookup(const std::string& host) {
    Known known;
    std::error_code error;
    const auto literal = asio::ip::make_address(host, error);
    if (!error) {
      if (is_connectable(literal)) known.addresses.push_back(literal.to_string());
      return known;
    }
    Host& entry = hosts_[host];
    const auto now = Clock::now();
    if (!entry.asking && (!entry.settled || now - entry.asked >= refresh_)) {
      entry.asking = true;
      entry.asked = now;
      tasks_.spawn(ask(shared_from_this(), host));
    }
    entry.used = now;
    known.addresses = entry.addresses;
    known.settled = entry.settled;
    known.name = true;
    return known;
  }

  void cancel() {
    tasks_.cancel();
    changed_ = nullptr;
  }
  asio::awaitable<void> join() { return tasks_.join(); }

 private:
  struct Host {
    std::vector<std::string> addresses;
    Clock::time_point asked, used;
    bool asking = false, settled = false;
  };

  static asio::awaitable<void> ask(std::shared_ptr<AddressBook> self, std::string host) {
    std::vector<std::string> found;
    std::string why;
    try {
      asio::ip::tcp::resolver resolver(co_await asio::this_coro::executor);
      const auto results = co_await resolver.async_resolve(host, std::string(), asio::use_awaitable);
      for (const auto& result : results) {
        const auto address = result.endpoint().address();
        if (is_connectable(address)) found.push_back(address.to_string());
      }
    } catch (const std::system_error& error) {
      why = error.code().message();
    }
    self->answered(host, std::move(found), why);
  }

  void answered(const std::string& host, std::vector<std::string> found, const std::string& why) {
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    Host& entry = hosts_[host];
    entry.asking = false;
    const bool news = !std::exchange(entry.settled, true) || (!found.empty() && found != entry.addresses);
    if (found.empty()) {
      observer_.count(metric::resolver_name_failures);
      observer_.log(LogLevel::Warning, "no address for " + quote(host) + (why.empty() ? "" : ": " + why) +
                                           (entry.addresses.empty() ? "" : "; keeping the last known ones"));
    } else {
      entry.addresses = std::move(found);
    }
    const auto old = Clock::now() - 10 * refresh_;
    std::erase_if(hosts_, [old](const auto& each) { return !each.second.asking && each.second.used < old; });
    if (news && changed_) changed_();
  }

  const Observer observer_;
  const std::chrono::milliseconds refresh_;
  TaskScope tasks_;
  std::function<void()> changed_;
  std::map<std::string, Host> hosts_;
};

}  // namespace registry::detail
