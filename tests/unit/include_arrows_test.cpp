// The includes of our headers point down only: model <- policy <- async <- store <- {etcd, registration,
// discovery} <- facade
// <- {rpc, config} <- registry.hpp.
#include "unit/include_arrows.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

std::size_t objections(const std::string& path, const std::string& text) {
  return include_arrows::check(path, text).size();
}

TEST_CASE("include arrows: no header of ours points up") {
  const fs::path root(REGISTRY_INCLUDE_DIR);
  std::size_t headers = 0;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / "registry")) {
    if (!entry.is_regular_file()) continue;
    ++headers;
    std::ifstream file(entry.path());
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    for (const std::string& line :
         include_arrows::check(entry.path().lexically_relative(root).generic_string(), text)) {
      FAIL_CHECK(line);
    }
  }
  CHECK(headers > 40);
}

TEST_CASE("include arrows: a planted arrow that points up or sideways is found") {
  CHECK(objections("registry/store/follow.hpp", "#include \"registry/etcd/connector.hpp\"\n") == 1);
  CHECK(objections("registry/store/follow.hpp", "  #  include <registry/facade/registry.hpp>\n") == 1);
  CHECK(objections("registry/discovery/view.hpp", "#include \"registry/registration/keeper.hpp\"\n") == 1);
  CHECK(objections("registry/rpc/resolver.hpp", "#include \"registry/config/reload.hpp\"\n") == 1);
  CHECK(objections("registry/policy/claim.hpp", "#include \"registry/observe/observer.hpp\"\n") == 1);
  CHECK(objections("registry/model/errors.hpp", "#include \"registry/observe/observer.hpp\"\n") == 1);
  CHECK(objections("registry/observe/observer.hpp", "#include \"registry/policy/backoff.hpp\"\n") == 1);
  CHECK(objections("registry/facade/registry.hpp", "#include \"registry/registry.hpp\"\n") == 1);
  CHECK(objections("registry/facade/registry.hpp", "#include \"registry/util/misc.hpp\"\n") == 1);
  CHECK(objections("registry/util/misc.hpp", "#include <string>\n") == 1);
}

TEST_CASE("include arrows: a planted include of a library that the layer may not use is found") {
  CHECK(objections("registry/policy/claim.hpp", "#include <asio/steady_timer.hpp>\n") == 1);
  CHECK(objections("registry/policy/claim.hpp", "#include <boost/json.hpp>\n") == 1);
  CHECK(objections("registry/policy/backoff.hpp", "#include <random>\n") == 1);
  CHECK(objections("registry/model/kv.hpp", "#include <asio.hpp>\n") == 1);
  CHECK(objections("registry/store/store.hpp", "#include <grpcpp/grpcpp.h>\n") == 1);
  CHECK(objections("registry/async/unary_call.hpp", "#include <registry_etcd_messages.pb.h>\n") == 1);
  CHECK(objections("registry/rpc/resolver.hpp", "#include <registry_etcd_services.grpc.pb.h>\n") == 1);
  CHECK(objections("registry/model/codec.hpp", "#include <boost/asio.hpp>\n") == 1);
}

TEST_CASE("include arrows: what points down passes") {
  CHECK(objections("registry/model/codec.hpp",
                   "#include <boost/json/value.hpp>\n#include \"registry/model/kv.hpp\"\n") == 0);
  CHECK(objections("registry/policy/claim.hpp", "#include <chrono>\n#include \"registry/model/kv.hpp\"\n") ==
        0);
  CHECK(objections("registry/etcd/stub.hpp",
                   "#include <registry_etcd_messages.pb.h>\n#include <grpcpp/channel.h>\n") == 0);
  CHECK(objections("registry/store/follow.hpp",
                   "#include \"registry/observe/observer.hpp\"\n#include <asio/post.hpp>\n") == 0);
  CHECK(objections("registry/registry.hpp", "#include \"registry/rpc/resolver.hpp\"\n") == 0);
  CHECK(objections("registry/model/kv.hpp", "// as in #include <asio.hpp>\nint include;\n") == 0);
}

}  // namespace
