#include <algorithm>
#include <system_error>
#include <utility>

#include <boost/asio/post.hpp>

#include "http_core.hpp"
#include "reply_state.hpp"

namespace server {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

// ---- the reply -------------------------------------------------------------------------------------------

reply::reply(sender send) : state_(std::make_shared<state>(std::move(send))) {}
void reply::operator()(http_response response) const { state_->answer(std::move(response)); }
bool reply::lost() const noexcept { return state_->lost || state_->answered; }
void reply::set_route(std::string route) const { state_->route = std::move(route); }
void reply::set_deadline(time_point deadline) const noexcept { state_->deadline = deadline; }

// ---- the core --------------------------------------------------------------------------------------------

namespace {

bitmill::error wrong(std::string message) {
    return {.code = bitmill::error_code::invalid_argument, .message = std::move(message)};
}

bitmill::result<asio::ip::address> read_address(const http_options& options) {
    std::string text = options.address == "localhost" ? "127.0.0.1" : options.address;
    if (text.size() > 2 && text.front() == '[' && text.back() == ']') text = text.substr(1, text.size() - 2);
    error_code code;
    const auto address = asio::ip::make_address(text, code);
    if (code)
        return wrong("cannot listen on '" + options.address + "', which is no IP address; use 127.0.0.1");
    if (!address.is_loopback() && options.token.empty())
        return wrong("listening on " + options.address +
                     " lets other machines in, and needs a token; set one, or listen on 127.0.0.1");
    const auto can_stand = [](char c) { return c > ' ' && c < 0x7f; };
    if (!std::all_of(options.token.begin(), options.token.end(), can_stand))
        return wrong("the token has characters that no header carries; use letters and digits");
    for (const auto& name : options.allowed_hosts)
        if (!split_authority(name))
            return wrong("the allowed host '" + name + "' is none; write a name, or name:port");
    return address;
}

}  // namespace

http_core::http_core(http_options with, http_handler to, const asio::ip::address& address)
    : options(std::move(with)), handler(std::move(to)), gate(options, address.to_string()),
      budget(options.limits.held_bytes), address_(address) {}

bitmill::result<void> http_core::listen() {
    const tcp::endpoint endpoint(address_, options.port);
    error_code code;
    acceptor_.open(endpoint.protocol(), code);
    if (!code) acceptor_.set_option(tcp::acceptor::reuse_address(true), code);
    if (!code) acceptor_.bind(endpoint, code);
    if (!code) acceptor_.listen(asio::socket_base::max_listen_connections, code);
    if (!code) acceptor_.non_blocking(true, code);
    if (!code) port_ = acceptor_.local_endpoint(code).port();
    if (code)
        return bitmill::error{.code = bitmill::error_code::io,
                              .message = "cannot listen on " + options.address + ", port " +
                                         std::to_string(options.port) + ": " + code.message() +
                                         "; choose another address or port"};
    accept();
    sweep();
    return {};
}

void http_core::run() noexcept {
    for (;;) {
        try {
            io.run();
            return;
        } catch (...) {  // every handler guards itself, so nothing is lost with what threw
        }
    }
}

http_status http_core::status() const noexcept {
    return {.connections = count_.load(), .requests = requests.load(), .held_bytes = budget.held()};
}

http_response http_core::refusal_of(std::string_view path, unsigned code, std::string_view message) const {
    auto response = options.refusal ? options.refusal(path, code, message) : error_response(code, message);
    response.status = code;
    if (code == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
    if (code == 503) response.headers.emplace_back("Retry-After", "1");
    return response;
}

std::string_view http_core::date() {
    const auto since = std::chrono::system_clock::now().time_since_epoch();
    const std::int64_t second = std::chrono::duration_cast<std::chrono::seconds>(since).count();
    if (second != date_second_) {
        date_ = http_date(second);
        date_second_ = second;
    }
    return date_;
}

// ---- connections -----------------------------------------------------------------------------------------

void http_core::accept() {
    acceptor_.async_accept([this](const error_code& code, tcp::socket socket) {
        if (!acceptor_.is_open()) return;
        if (!code) {
            admit(std::move(socket));
            return accept();
        }
        // Out of file descriptors, most likely: trying again at once would take all of the processor.
        accept_timer_.expires_after(milliseconds(50));
        accept_timer_.async_wait([this](const error_code& cancelled) {
            if (!cancelled && acceptor_.is_open()) accept();
        });
    });
}

void http_core::admit(tcp::socket socket) {
    // How many are told that there is no room.
    constexpr std::size_t most_refused = 64;
    try {
        const bool room = count_ < options.limits.connections || make_room();
        if (!room && count_ >= options.limits.connections + most_refused) return;
        const auto one = std::make_shared<http_connection>(*this, std::move(socket));
        connections_.insert(one);
        count_ = connections_.size();
        room ? one->start() : one->start_refused();
    } catch (...) {  // no memory for one more client
    }
}

// The one that has been idle for longest goes.
bool http_core::make_room() {
    std::shared_ptr<http_connection> oldest;
    for (const auto& one : connections_)
        if (one->idle() && (!oldest || one->deadline() < oldest->deadline())) oldest = one;
    if (oldest) oldest->close();
    return oldest != nullptr;
}

void http_core::remove(const std::shared_ptr<http_connection>& one) {
    connections_.erase(one);
    count_ = connections_.size();
    check_drained();
}

std::vector<std::shared_ptr<http_connection>> http_core::all() const {
    return {connections_.begin(), connections_.end()};
}

void http_core::sweep() {
    const auto& limits = options.limits;
    const auto shortest = std::min({limits.header_timeout, limits.body_timeout, limits.idle_timeout,
                                    limits.write_timeout, limits.request_timeout});
    sweep_timer_.expires_after(std::clamp(shortest / 4, milliseconds(5), milliseconds(250)));
    sweep_timer_.async_wait([this](const error_code& cancelled) {
        if (cancelled || stopped_) return;
        try {
            const auto time = std::chrono::steady_clock::now();
            for (const auto& one : all()) one->sweep(time);
        } catch (...) {  // no memory for the list: the next time will do
        }
        sweep();
    });
}

// ---- the end ---------------------------------------------------------------------------------------------

bool http_core::drain(milliseconds timeout) {
    asio::post(io, [this] { begin_drain(); });
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [&] { return drained_; });
}

void http_core::begin_drain() {
    if (stopped_) return;
    // Who has connected before may have asked already.
    for (error_code code; acceptor_.is_open() && !code;) {
        tcp::socket socket(io);
        acceptor_.accept(socket, code);
        if (!code) admit(std::move(socket));
    }
    draining_ = true;
    error_code code;
    acceptor_.close(code);
    for (const auto& one : all()) one->drain();
    check_drained();
}

void http_core::check_drained() {
    if (!draining_ || !connections_.empty()) return;
    const std::lock_guard lock(mutex_);
    drained_ = true;
    changed_.notify_all();
}

void http_core::stop() {
    asio::post(io, [this] {
        stopped_ = true;
        error_code code;
        acceptor_.close(code);
        sweep_timer_.cancel();
        accept_timer_.cancel();
        for (const auto& one : all()) one->close();
        work_.reset();
    });
}

// ---- the server ------------------------------------------------------------------------------------------

http_server::http_server(std::shared_ptr<http_core> core)
    : core_(std::move(core)), thread_([one = core_] { one->run(); }) {}

http_server::~http_server() {
    core_->stop();
    thread_.join();
}

bitmill::result<void> http_server::check(const http_options& options) {
    const auto address = read_address(options);
    return address ? bitmill::result<void>() : address.error();
}

bitmill::result<std::unique_ptr<http_server>> http_server::start(http_options options, http_handler handler) {
    auto address = read_address(options);
    if (!address) return std::move(address).error();
    auto core = std::make_shared<http_core>(std::move(options), std::move(handler), *address);
    if (auto listening = core->listen(); !listening) return std::move(listening).error();
    try {
        return std::unique_ptr<http_server>(new http_server(std::move(core)));
    } catch (const std::system_error& failure) {
        return bitmill::error{.code = bitmill::error_code::io,
                              .message = std::string("cannot start a thread: ") + failure.what()};
    }
}

std::uint16_t http_server::port() const noexcept { return core_->port(); }
http_status http_server::status() const noexcept { return core_->status(); }
bool http_server::drain(milliseconds timeout) { return core_->drain(timeout); }

}  // namespace server
