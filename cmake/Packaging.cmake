# Debian packages, from a configured build folder:
#
#   cmake --build build --target theria-server theria theria_client && (cd build && cpack -G DEB)
#
#   theria-server   the server, its systemd unit, /etc/theria/server.toml, the operator's manual,
#                   the Prometheus and Grafana files
#   theria          the command
#   libtheria-dev   the C++ client: find_package(theria)
#
# The dependencies of a package are read from its binaries. Only targets that are already built are
# packaged, so that packaging does not build the tests.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)

# System files have absolute paths. Only packages install them, so that `cmake --install --prefix`
# stays within its prefix.
install(FILES deploy/systemd/theria-server.service
  DESTINATION /usr/lib/systemd/system COMPONENT system EXCLUDE_FROM_ALL)
install(FILES deploy/server.toml DESTINATION /etc/theria COMPONENT system EXCLUDE_FROM_ALL)
install(FILES docs/operations.md docs/deployment.md deploy/systemd/gpu.conf
  DESTINATION /usr/share/doc/theria-server COMPONENT system EXCLUDE_FROM_ALL)
# The files that deployment.md tells an operator to use.
install(DIRECTORY deploy/prometheus deploy/grafana
  DESTINATION /usr/share/doc/theria-server/deploy COMPONENT system EXCLUDE_FROM_ALL
  PATTERN "*.py" EXCLUDE PATTERN "__pycache__" EXCLUDE)
install(FILES LICENSE RENAME copyright
  DESTINATION /usr/share/doc/theria-server COMPONENT system EXCLUDE_FROM_ALL)
install(FILES LICENSE RENAME copyright
  DESTINATION /usr/share/doc/theria COMPONENT command_system EXCLUDE_FROM_ALL)
install(FILES LICENSE RENAME copyright
  DESTINATION /usr/share/doc/libtheria-dev COMPONENT client_system EXCLUDE_FROM_ALL)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME theria)
set(CPACK_PACKAGE_VENDOR Theria)
set(CPACK_PACKAGE_CONTACT "The Theria authors <theria@localhost>")
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_SET_DESTDIR ON)
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)

set(CPACK_COMPONENTS_ALL server system command command_system client client_system)
set(CPACK_COMPONENT_SERVER_GROUP server)
set(CPACK_COMPONENT_SYSTEM_GROUP server)
set(CPACK_COMPONENT_COMMAND_GROUP command)
set(CPACK_COMPONENT_COMMAND_SYSTEM_GROUP command)
set(CPACK_COMPONENT_CLIENT_GROUP client)
set(CPACK_COMPONENT_CLIENT_SYSTEM_GROUP client)

# A package's description is PROJECT_DESCRIPTION, followed by the text of its group below.
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_SECTION science)

set(CPACK_DEBIAN_SERVER_PACKAGE_NAME theria-server)
set(CPACK_DEBIAN_SERVER_DESCRIPTION
"The gRPC server. It computes scaled dot-product attention and its vector-Jacobian, Jacobian-vector
and Hessian-vector products for clients in Python, C++ and other languages.")
set(CPACK_DEBIAN_SERVER_PACKAGE_CONTROL_EXTRA
  ${PROJECT_SOURCE_DIR}/deploy/debian/conffiles ${PROJECT_SOURCE_DIR}/deploy/debian/postinst
  ${PROJECT_SOURCE_DIR}/deploy/debian/prerm ${PROJECT_SOURCE_DIR}/deploy/debian/postrm)
set(CPACK_DEBIAN_SERVER_PACKAGE_SUGGESTS "theria, prometheus")

set(CPACK_DEBIAN_COMMAND_PACKAGE_NAME theria)
set(CPACK_DEBIAN_COMMAND_DESCRIPTION
"The theria command. It shows what a server supports, checks its health, compares its results with
explicit float64 attention, and measures latency and throughput.")

set(CPACK_DEBIAN_CLIENT_PACKAGE_NAME libtheria-dev)
set(CPACK_DEBIAN_CLIENT_PACKAGE_SECTION libdevel)
# The headers of theria::maml include Eigen. Debian's gRPCConfig.cmake checks that the code generators
# of protobuf-compiler-grpc exist, which libgrpc++-dev does not depend on.
set(CPACK_DEBIAN_CLIENT_PACKAGE_DEPENDS
  "libabsl-dev, libeigen3-dev, libgrpc++-dev, libprotobuf-dev, libssl-dev, protobuf-compiler-grpc")
set(CPACK_DEBIAN_CLIENT_DESCRIPTION
"The C++ client. Headers and static libraries for find_package(theria): the client, and
meta-learning (MAML) with exact meta-gradients.")
include(CPack)
