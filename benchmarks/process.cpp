// What the parts of the library cost that are used for every event, call and message, beside what one would use without it.
//   process [--json FILE] [options of Google Benchmark, such as --benchmark_filter=codec]
//
// Floor and library take turns in 51 pairs behind one that warms up; what is printed are the medians, and the median of the ratios
// of the pairs. What stays in this thread is measured by its CPU time, some 2 ms a turn; calls and messages by the time they take,
// some 20 ms a turn, because gRPC's threads work for them too. Their server is in this process.
//
// codec: an instance with three metadata entries and one endpoint, and its value of some 190 bytes. The floor reads it into a
// boost::json::value, and writes it from one; the library reads it into a ServiceInstance, and writes it from one.
// policy: nothing is to be compared with it. A renewal that is due, answered, and planned anew.
// hand-over: of a string to a coroutine, on one thread; the values are there already, or come while the coroutine waits for them.
// unary call, stream message: gRPC's own blocking stubs against the library's coroutines on this thread.
#include <benchmark/benchmark.h>
#include <greeter.grpc.pb.h>
#include <grpcpp/grpcpp.h>
#include <time.h>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/experimental/concurrent_channel.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "budgets.hpp"
#include "registry/async/mailbox.hpp"
#include "registry/async/unary_call.hpp"
#include "registry/model/codec.hpp"
#include "registry/policy/renewal.hpp"
#include "registry/rpc/bidi_stream.hpp"
#include "report.hpp"

namespace {

using Hello = greeter::HelloRequest;
using Reply = greeter::HelloReply;
using Work = std::function<void(std::int64_t count)>;  // does it that often; throws if something is wrong
enum class Time { cpu, wall };

void expect(bool right, const char* what) {
  if (!right) throw std::runtime_error(std::string(what) + " is not what it should be");
}

double now(Time of) {
  timespec time;
  ::clock_gettime(of == Time::cpu ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

/// ns for one of that many.
double measured(const Work& work, std::int64_t count, Time of) {
  const double begin = now(of);
  work(count);
  return (now(of) - begin) / static_cast<double>(count);
}

void compare(const std::string& name, Time of, Work floor, Work library) {
  const auto run = [=](benchmark::State& state) {
    std::int64_t count = 1;
    const double turn = of == Time::cpu ? 2e6 : 2e7;
    while (measured(floor, count, Time::wall) * static_cast<double>(count) < turn) count *= 2;
    bench::Row row(name, "ns");
    for (auto _ : state) {
      bench::measure_pairs(
          row, 51, [&] { return measured(floor, count, of); }, [&] { return measured(library, count, of); });
    }
    state.counters["floor"] = *row.floor;
    state.counters["library"] = *row.library;
    state.counters["ratio"] = *row.ratio;
  };
  benchmark::RegisterBenchmark(name.c_str(), run)->Iterations(1);
}

// ---- In this thread

registry::ServiceInstance instance() {
  registry::ServiceInstance made("user-service", "user-100001");
  made.version = "v1.4.2";
  made.metadata = {{"weight", "100"}, {"region", "eu"}, {"zone", "eu-1"}};
  made.endpoints = {"grpc://10.0.0.5:9001"};
  return made;
}

void add_codec() {
  const std::string text = encode(instance());
  const auto parse = [text](std::int64_t count) {
    for (; count > 0; --count) benchmark::DoNotOptimize(boost::json::parse(text));
  };
  const auto decode = [text](std::int64_t count) {
    for (; count > 0; --count) {
      const registry::Decoded decoded = registry::decode(text, "user-service", "user-100001");
      expect(decoded && decoded.instance.endpoints.size() == 1, "a decoded instance");
    }
  };
  compare("codec: decode an instance, against boost::json::parse", Time::cpu, parse, decode);
  const auto serialize = [value = boost::json::parse(text)](std::int64_t count) {
    for (; count > 0; --count) benchmark::DoNotOptimize(boost::json::serialize(value));
  };
  const auto encode = [text, made = instance()](std::int64_t count) {
    for (; count > 0; --count) expect(registry::encode(made).size() == text.size(), "an encoded instance");
  };
  compare("codec: encode an instance, against boost::json::serialize", Time::cpu, serialize, encode);
}

void renewal_step(benchmark::State& state) {
  using namespace std::chrono_literals;
  registry::LeaseRenewal::TimePoint now{};
  registry::LeaseRenewal renewal(now, 30s);
  for (auto _ : state) {
    registry::RenewalAction action = renewal.next(now, 0.5);
    now = action.at;
    action = renewal.next(now, 0.5);
    if (action.kind == registry::RenewalAction::Renew) renewal.renewed(now, 30s);
  }
  state.counters["wrong"] = renewal.lost();
}

using Channel = asio::experimental::concurrent_channel<void(std::error_code, std::string)>;

/// Puts `count` values where a coroutine takes them, before it begins or, `waiting`, one each time it waits.
template <class Push, class Take>
void hand_over(asio::io_context& io, std::int64_t count, bool waiting, Push push, Take take) {
  std::function<void(std::int64_t)> produce = [&](std::int64_t left) {
    push(std::string("a value that does not fit into a small string"));
    if (left > 1) asio::post(io, [&produce, left] { produce(left - 1); });
  };
  if (!waiting) {
    for (std::int64_t i = 0; i < count; ++i)
      push(std::string("a value that does not fit into a small string"));
  }
  std::exception_ptr failure;
  asio::co_spawn(io, take(count), [&](std::exception_ptr error) { failure = std::move(error); });
  if (waiting) asio::post(io, [&] { produce(count); });
  io.restart();
  io.run();
  if (failure) std::rethrow_exception(failure);
}

asio::awaitable<void> take_all(Channel& channel, std::int64_t count) {
  for (; count > 0; --count)
    expect(!(co_await channel.async_receive(asio::use_awaitable)).empty(), "a value");
}
asio::awaitable<void> take_all(registry::Generator<std::string>& generator, std::int64_t count) {
  for (; count > 0; --count) {
    const auto value = co_await generator.next();
    expect(value && !value->empty(), "a value");
  }
}

void add_hand_over(const std::string& name, bool waiting) {
  const auto io = std::make_shared<asio::io_context>(1);
  const auto floor = [io, waiting](std::int64_t count) {
    Channel channel(*io, static_cast<std::size_t>(count));
    hand_over(
        *io, count, waiting,
        [&](std::string value) {
          expect(channel.try_send(std::error_code(), std::move(value)), "a channel");
        },
        [&](std::int64_t all) { return take_all(channel, all); });
  };
  const auto library = [io, waiting](std::int64_t count) {
    const auto mailbox = std::make_shared<registry::detail::Mailbox<std::string>>();
    registry::Generator<std::string> generator(mailbox);
    hand_over(
        *io, count, waiting, [&](std::string value) { mailbox->push(std::move(value)); },
        [&](std::int64_t all) { return take_all(generator, all); });
  };
  compare(name, Time::cpu, floor, library);
}

// ---- By gRPC

/// Answers calls and messages.
class Server final : public greeter::Greeter::Service {
 public:
  Server() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    if (!server_) throw std::runtime_error("cannot listen");
    stub = greeter::Greeter::NewStub(
        grpc::CreateChannel("127.0.0.1:" + std::to_string(port_), grpc::InsecureChannelCredentials()));
  }
  ~Server() override { server_->Shutdown(std::chrono::system_clock::now()); }

  asio::io_context io{1};
  std::unique_ptr<greeter::Greeter::Stub> stub;

  /// Runs a coroutine to its end on this thread.
  void run(asio::awaitable<void> work) {
    std::exception_ptr failure;
    asio::co_spawn(io, std::move(work), [&](std::exception_ptr error) { failure = std::move(error); });
    io.restart();
    io.run();
    if (failure) std::rethrow_exception(failure);
  }

 private:
  grpc::Status SayHello(grpc::ServerContext*, const Hello* request, Reply* reply) override {
    reply->set_message(request->name());
    return grpc::Status::OK;
  }
  grpc::Status Chat(grpc::ServerContext*, grpc::ServerReaderWriter<Reply, Hello>* stream) override {
    Hello request;
    Reply reply;
    while (stream->Read(&request)) {
      reply.set_message(request.name());
      if (!stream->Write(reply)) break;
    }
    return grpc::Status::OK;
  }

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

asio::awaitable<void> call_all(Server& server, std::int64_t count) {
  const auto request = std::make_shared<Hello>();
  request->set_name("you");
  for (; count > 0; --count) {
    const auto call = std::make_shared<registry::detail::UnaryCall<Hello, Reply>>();
    call->request = request;
    const auto start = [&server](auto& made, auto done) {
      server.stub->async()->SayHello(&made.context, made.request.get(), &made.response, std::move(done));
    };
    co_await registry::detail::run_unary(call, start);
    expect(call->status.ok() && call->response.message() == "you", "an answer");
  }
}

asio::awaitable<void> chat(Server& server, std::int64_t count) {
  const auto bind = [&server](grpc::ClientContext* context, auto* reactor) {
    server.stub->async()->Chat(context, reactor);
  };
  registry::BidiStream<Hello, Reply> stream(server.io.get_executor(), std::make_unique<grpc::ClientContext>(),
                                            bind);
  Hello request;
  request.set_name("you");
  for (; count > 0; --count) {
    expect(co_await stream.write(request), "a stream");
    const auto reply = co_await stream.read();
    expect(reply && reply->message() == "you", "a reply");
  }
  const grpc::Status status = co_await stream.finish();
  expect(status.ok(), "the end of a stream");
}

void add_grpc() {
  const auto server = std::make_shared<Server>();
  const auto call = [server](std::int64_t count) {
    Hello request;
    request.set_name("you");
    for (; count > 0; --count) {
      grpc::ClientContext context;
      Reply reply;
      expect(server->stub->SayHello(&context, request, &reply).ok() && reply.message() == "you", "an answer");
    }
  };
  compare("unary call, awaited, against gRPC's blocking call", Time::wall, call,
          [server](std::int64_t count) { server->run(call_all(*server, count)); });
  const auto messages = [server](std::int64_t count) {
    grpc::ClientContext context;
    const auto stream = server->stub->Chat(&context);
    Hello request;
    request.set_name("you");
    Reply reply;
    for (; count > 0; --count)
      expect(stream->Write(request) && stream->Read(&reply) && reply.message() == "you", "a reply");
    stream->WritesDone();
    expect(stream->Finish().ok(), "the end of a stream");
  };
  compare("stream: a message and its reply, awaited, against blocking", Time::wall, messages,
          [server](std::int64_t count) { server->run(chat(*server, count)); });
}

}  // namespace

int main(int argc, char** argv) try {
  return bench::run_benchmarks(argc, argv, [] {
    add_codec();
    benchmark::RegisterBenchmark("policy: one renewal of a lease", renewal_step);
    add_hand_over("hand-over: values that are there, against a concurrent_channel", false);
    add_hand_over("hand-over: one at a time, against a concurrent_channel", true);
    add_grpc();
  });
} catch (const std::exception& error) {
  std::fprintf(stderr, "process: %s\n", error.what());
  return 1;
}
