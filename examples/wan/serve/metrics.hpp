#pragma once
#include <string>

#include "wan/serve/http/server.hpp"
#include "wan/serve/jobs.hpp"
#include "wan/serve/status.hpp"

namespace wan::serve {

/// The metrics in Prometheus' text format 0.0.4.
std::string metrics_of(const Jobs& jobs, const Status& status, const Server& server);

}  // namespace wan::serve
