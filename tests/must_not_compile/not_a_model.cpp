// says: a Model is made of a module
#include <wanpar/module/model.hpp>
wanpar::Model model(std::string("transformer"));
