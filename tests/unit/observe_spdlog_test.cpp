// The adapter for spdlog: levels, text as it is, several threads, and sinks that fail.
#include <doctest/doctest.h>

#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/sinks/base_sink.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "registry/observe/spdlog.hpp"

using namespace registry;

namespace {

using Lines = std::vector<std::pair<spdlog::level::level_enum, std::string>>;

/// Keeps what it is given, under spdlog's own mutex.
class Kept final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  Lines lines() {
    const std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    lines_.emplace_back(message.level, std::string(message.payload.data(), message.payload.size()));
  }
  void flush_() override {}
  Lines lines_;
};

/// Throws what it is told to.
class Broken final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit Broken(bool exception) : exception_(exception) {}

 private:
  void sink_it_(const spdlog::details::log_msg&) override {
    if (exception_) throw std::runtime_error("the disk is full");
    throw 42;
  }
  void flush_() override {}
  const bool exception_;
};

}  // namespace

TEST_CASE("spdlog: each level is spdlog's own, and the logger decides which of them it writes") {
  const auto sink = std::make_shared<Kept>();
  const auto logger = std::make_shared<spdlog::logger>("registry", sink);
  logger->set_level(spdlog::level::trace);
  const Observer observer(std::make_shared<SpdlogLogger>(logger));
  const auto say_all = [&] {
    observer.log(LogLevel::Debug, "one");
    observer.log(LogLevel::Info, "two");
    observer.log(LogLevel::Warning, "three");
    observer.log(LogLevel::Error, "four");
  };
  say_all();
  CHECK(sink->lines() == Lines{{spdlog::level::debug, "one"},
                               {spdlog::level::info, "two"},
                               {spdlog::level::warn, "three"},
                               {spdlog::level::err, "four"}});
  logger->set_level(spdlog::level::warn);
  say_all();
  CHECK(sink->lines().size() == 6);
}

TEST_CASE("spdlog: text is text, whatever it looks like") {
  const auto sink = std::make_shared<Kept>();
  SpdlogLogger adapter(std::make_shared<spdlog::logger>("registry", sink));
  const std::vector<std::string> texts = {"{} %s", "{0:d} {name} {", "}}{{ %n %v %", "",
                                          std::string("a\0b", 3)};
  for (const std::string& text : texts) adapter.log(LogLevel::Warning, text);
  const Lines lines = sink->lines();
  REQUIRE(lines.size() == texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) CHECK(lines[i].second == texts[i]);
}

TEST_CASE("spdlog: an asynchronous logger may write the text after the call") {
  const auto sink = std::make_shared<Kept>();
  {
    const auto threads = std::make_shared<spdlog::details::thread_pool>(64, 1);
    const auto logger = std::make_shared<spdlog::async_logger>("registry", sink, threads);
    SpdlogLogger adapter(logger);
    std::string text;
    for (int i = 0; i < 100; ++i) {
      text.assign(200, static_cast<char>('a' + i % 26));
      adapter.log(LogLevel::Info, text);
    }
  }  // the pool writes what it has
  const Lines lines = sink->lines();
  REQUIRE(lines.size() == 100);
  for (std::size_t i = 0; i < lines.size(); ++i)
    CHECK(lines[i].second == std::string(200, static_cast<char>('a' + i % 26)));
}

TEST_CASE("spdlog: lines of several threads arrive, each whole and in its thread's order") {
  constexpr int threads = 4, lines_each = 1000;
  const auto sink = std::make_shared<Kept>();
  SpdlogLogger adapter(std::make_shared<spdlog::logger>("registry", sink));
  std::vector<std::thread> all;
  for (int t = 0; t < threads; ++t) {
    all.emplace_back([&adapter, t] {
      for (int i = 0; i < lines_each; ++i)
        adapter.log(LogLevel::Info, std::to_string(t) + " says " + std::to_string(i));
    });
  }
  for (std::thread& thread : all) thread.join();
  const Lines lines = sink->lines();
  CHECK(lines.size() == threads * lines_each);
  std::vector<int> next(threads, 0);
  for (const auto& [level, text] : lines) {
    int& number = next[static_cast<std::size_t>(text.front() - '0')];
    CHECK(text == text.substr(0, 1) + " says " + std::to_string(number++));
  }
}

TEST_CASE("spdlog: what a sink throws stays inside, and the other sinks get the line") {
  for (const bool exception : {true, false}) {
    CAPTURE(exception);
    const auto sink = std::make_shared<Kept>();
    const spdlog::sinks_init_list sinks = {std::make_shared<Broken>(exception), sink};
    const auto logger = std::make_shared<spdlog::logger>("registry", sinks);
    std::vector<std::string> told;
    logger->set_error_handler([&told](const std::string& error) { told.push_back(error); });
    SpdlogLogger adapter(logger);
    adapter.log(LogLevel::Error, "lost on one of them");
    CHECK(told.size() == 1);
    // spdlog goes on with the other sinks behind a std::exception only.
    CHECK(sink->lines().size() == (exception ? 1 : 0));
    logger->set_error_handler([](const std::string& error) { throw std::runtime_error(error); });
    adapter.log(LogLevel::Error, "and so does what the error handler throws");
  }
}

TEST_CASE("spdlog: null is refused by name") {
  try {
    SpdlogLogger adapter(nullptr);
    FAIL("accepted");
  } catch (const std::system_error& error) {
    CHECK(error.code() == errc::invalid_argument);
    CHECK(std::string(error.what()).starts_with("logger = null"));
  }
}
