// What a program that uses gRPC, Asio and Boost.JSON includes anyway: the floor that tools/compile_time.sh compares with.
#include <grpcpp/grpcpp.h>

#include <asio.hpp>
#include <boost/json.hpp>
