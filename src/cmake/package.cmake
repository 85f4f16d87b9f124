# What `cpack` makes of what is installed: a Debian package for building against wanpar.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "the maintainers of wanpar")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_DEBIAN_PACKAGE_NAME libwanpar-dev)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
# LibTorch is the user's own; the headers of wanpar/files/json.hpp are Debian's.
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "nlohmann-json3-dev")
include(CPack)
