#include "wan/serve/feed.hpp"

#include <fmt/format.h>

#include <boost/asio/post.hpp>

namespace wan::serve {

std::string sent_form(const std::string& kind, const std::string& data) {
  return fmt::format("event: {}\ndata: {}\n\n", kind, data);
}

void Feed::publish(const Event& event) {
  boost::asio::post(io_, [this, event] {
    if (!has_listeners()) return;
    const auto text = sent_form(event.kind, event.data);
    for (const auto& listener : listeners_) {
      const auto subscription = listener.subscription.lock();
      const bool is_of_all = event.kind == "status";
      if (!subscription || (!is_of_all && listener.owner != event.owner)) continue;
      if (listener.id && *listener.id != event.id) continue;
      subscription->put(event.kind + event.id, text, event.is_last && listener.id);
    }
  });
}

bool Feed::has_listeners() {
  std::erase_if(listeners_, [](const Listener& one) { return one.subscription.expired(); });
  return !listeners_.empty();
}

std::shared_ptr<Subscription> Feed::subscribe(const std::string& owner,
                                              const std::optional<std::string>& id) {
  auto subscription = std::make_shared<Subscription>(io_);
  listeners_.push_back({owner, id, subscription});
  return subscription;
}

}  // namespace wan::serve
