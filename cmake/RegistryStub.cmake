# registry_add_stub(target [PLAIN] [MESSAGES a.proto...] [SERVICES b.proto...]): a static library of the messages and gRPC stubs
# that protoc generates. Service classes get a namespace of ours, `<package>::registry_stub`, so that another stub of the same
# services can live in the same program; the path of a call keeps the package's name alone. PLAIN: no such namespace.
function(registry_add_stub target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "PLAIN" "" "MESSAGES;SERVICES")
  set(out "${CMAKE_CURRENT_BINARY_DIR}/${target}")
  file(MAKE_DIRECTORY "${out}")
  set(headers "")
  set(sources "")
  foreach(proto IN LISTS arg_MESSAGES arg_SERVICES)
    cmake_path(GET proto STEM name)
    cmake_path(ABSOLUTE_PATH proto OUTPUT_VARIABLE file)
    cmake_path(GET file PARENT_PATH folder)
    set(made "${out}/${name}.pb.h" "${out}/${name}.pb.cc")
    set(grpc_flags "")
    if(proto IN_LIST arg_SERVICES)
      list(APPEND made "${out}/${name}.grpc.pb.h" "${out}/${name}.grpc.pb.cc")
      set(grpc_flags --plugin=protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin>
        --grpc_out=$<IF:$<BOOL:${arg_PLAIN}>,,services_namespace=registry_stub:>${out})
    endif()
    list(TRANSFORM arg_MESSAGES PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/" OUTPUT_VARIABLE imports)
    add_custom_command(OUTPUT ${made}
      COMMAND protobuf::protoc --proto_path=${folder} --cpp_out=${out} ${grpc_flags} ${file}
      DEPENDS ${file} ${imports} protobuf::protoc
      COMMENT "Generating the stub of ${name}.proto"
      VERBATIM)
    list(APPEND headers ${made})
    list(APPEND sources ${made})
  endforeach()
  list(FILTER headers INCLUDE REGEX "\\.h$")

  add_library(${target} STATIC ${sources})
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_compile_options(${target} PRIVATE -w)
  # SYSTEM: the warnings of generated headers are nobody's.
  target_include_directories(${target} SYSTEM PUBLIC
    $<BUILD_INTERFACE:${out}>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/${target}>)
  # One protobuf runtime in a program: the full one, which gRPC needs anyway, runs lite messages too.
  target_link_libraries(${target} PUBLIC gRPC::grpc++ protobuf::libprotobuf PRIVATE $<BUILD_INTERFACE:registry_sanitizers>)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON REGISTRY_GENERATED_HEADERS "${headers}")
endfunction()
