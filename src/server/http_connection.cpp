#include "http_connection.hpp"

#include <new>
#include <utility>

#include <boost/asio/dispatch.hpp>
#include <boost/asio/write.hpp>

#include "http_core.hpp"
#include "reply_state.hpp"

namespace server {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr milliseconds linger_timeout{2'000};

// Of a socket that takes both kinds of address, too, the v4 one as its clients write it.
std::string local_address_of(const asio::ip::tcp::socket& socket) {
    error_code code;
    auto address = socket.local_endpoint(code).address();
    if (address.is_v6() && address.to_v6().is_v4_mapped())
        address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
    return address.to_string();
}

time_point now() { return std::chrono::steady_clock::now(); }

// Assigning an empty text keeps the memory, and an idle connection must not hold that of its largest answer.
void release(std::string& text) noexcept { std::string().swap(text); }

}  // namespace

http_connection::http_connection(http_core& core, asio::ip::tcp::socket socket)
    : core_(core), socket_(std::move(socket)), local_address_(local_address_of(socket_)),
      reader_({core.options.limits, core.gate, local_address_, core.budget}) {
    error_code code;
    socket_.set_option(asio::ip::tcp::no_delay(true), code);
    socket_.non_blocking(true, code);
}

// Whatever goes wrong with one connection, memory included, ends that connection only.
template <class Work>
void http_connection::guarded(Work&& work) noexcept {
    try {
        work();
    } catch (...) {
        close();
    }
}

void http_connection::start() {
    guarded([&] {
        deadline_ = now() + core_.options.limits.header_timeout;
        read();
    });
}

void http_connection::start_refused() {
    guarded([&] { refuse(503, "as many clients as may be are connected; try again"); });
}

bool http_connection::idle() const noexcept {
    return phase_ == phase::reading && !reader_.begun() && pending_.empty();
}

// ---- reading ---------------------------------------------------------------------------------------------

void http_connection::read() {
    if (reading_ || eof_ || phase_ == phase::closed || pending_.size() > core_.options.limits.header_bytes)
        return;
    reading_ = true;
    socket_.async_read_some(asio::buffer(chunk_),
                            [self = shared_from_this()](error_code code, std::size_t count) {
                                self->reading_ = false;
                                self->guarded([&] { self->on_read(code, count); });
                            });
}

void http_connection::on_read(const error_code& code, std::size_t count) {
    if (phase_ == phase::closed) return;
    if (code == asio::error::eof) {
        eof_ = true;
        if (phase_ == phase::reading || phase_ == phase::lingering) return close();
        if (const auto current = current_.lock()) current->lost = true;
        return;
    }
    if (code) return close();
    if (phase_ == phase::lingering) return read();
    pending_.append(chunk_.data(), count);
    if (phase_ == phase::reading) return advance();
    read();
}

// Takes what has been read as far as it goes.
void http_connection::advance() {
    const auto& limits = core_.options.limits;
    const bool begun = reader_.begun(), had_header = reader_.header_done();
    pending_.erase(0, reader_.put(pending_));
    if (pending_.empty()) release(pending_);
    if (const auto& refused = reader_.refused()) return refuse(refused->status, refused->message);
    if (reader_.done()) return handle();
    if (eof_) return close();
    if (!had_header && reader_.header_done()) {
        deadline_ = now() + limits.body_timeout;
        if (reader_.wants_continue() && reader_.request().body.empty()) send_continue();
    } else if (!begun && reader_.begun()) {
        deadline_ = now() + limits.header_timeout;
    }
    read();
}

// All that was to be written is in the system's hands, so these few bytes find room, or the client waits for nothing.
void http_connection::send_continue() {
    static constexpr std::string_view line = "HTTP/1.1 100 Continue\r\n\r\n";
    error_code code;
    const std::size_t sent = socket_.write_some(asio::buffer(line.data(), line.size()), code);
    if (sent != 0 && sent != line.size()) close();
}

// ---- answering -------------------------------------------------------------------------------------------

void http_connection::handle() {
    phase_ = phase::handling;
    begun_ = now();
    keep_alive_ = reader_.keep_alive();
    in_request_ = true;
    ++core_.requests;
    http_request request = std::move(reader_.request());
    method_ = request.method;
    path_ = request.path;
    route_.clear();
    request.deadline = begun_ + core_.options.limits.request_timeout;
    reply answer([weak = weak_from_this(), core = core_.shared_from_this(), serial = ++serial_](
                     http_response response, const std::string& route) {
        asio::dispatch(core->io, [weak, serial, response = std::move(response), route]() mutable {
            if (const auto self = weak.lock())
                self->guarded([&] { self->take_answer(serial, std::move(response), route); });
        });
    });
    answer.set_deadline(request.deadline);
    current_ = answer.state_;
    read();
    try {
        core_.handler(std::move(request), answer);
    } catch (const std::bad_alloc&) {
        answer(core_.refusal_of(path_, 503, "out of memory; try again"));
    } catch (...) {  // its words may name files of this machine
        answer(core_.refusal_of(path_, 500, "the server failed on this request"));
    }
}

void http_connection::take_answer(std::uint64_t serial, http_response response, const std::string& route) {
    if (phase_ == phase::handling && serial == serial_) write(std::move(response), route);
}

void http_connection::refuse(unsigned status, std::string_view message) {
    method_ = reader_.request().method;
    path_ = reader_.request().path;
    begun_ = now();
    keep_alive_ = false;
    in_request_ = true;
    ++core_.requests;
    write(core_.refusal_of(path_, status, message), {});
}

void http_connection::write(http_response response, const std::string& route) {
    phase_ = phase::writing;
    route_ = route;
    if (!core_.budget.take(response.body.size())) {
        response = core_.refusal_of(
            path_, 503, "the server holds as many bytes of requests and answers as it may; try again");
    } else {
        held_ = response.body.size();
    }
    status_ = response.status;
    if (core_.draining()) keep_alive_ = false;
    if (status_ == 204) response.body.clear();
    head_ = write_head(response, {keep_alive_, reader_.version() < 11, core_.date()});
    body_ = method_ == "HEAD" ? std::string() : std::move(response.body);
    deadline_ = now() + core_.options.limits.write_timeout;
    asio::async_write(socket_,
                      std::array{asio::buffer(std::as_const(head_)), asio::buffer(std::as_const(body_))},
                      [self = shared_from_this()](error_code code, std::size_t) {
                          self->guarded([&] { self->on_written(code); });
                      });
}

void http_connection::on_written(const error_code& code) {
    if (phase_ == phase::closed) return;
    if (code) return close();
    report(status_);
    core_.budget.give_back(std::exchange(held_, 0));
    release(head_);
    release(body_);
    if (!keep_alive_ || core_.draining()) return linger();
    reader_.reset();
    phase_ = phase::reading;
    const auto& limits = core_.options.limits;
    deadline_ = now() + (pending_.empty() ? limits.idle_timeout : limits.header_timeout);
    advance();
}

// Once for each request.
void http_connection::report(unsigned status) {
    if (!std::exchange(in_request_, false)) return;
    --core_.requests;
    if (!core_.options.on_outcome) return;
    const std::chrono::duration<double> taken = now() - begun_;
    core_.options.on_outcome({.method = method_,
                              .path = path_,
                              .route = route_,
                              .status = status,
                              .received_bytes = reader_.received_bytes(),
                              .sent_bytes = head_.size() + body_.size(),
                              .seconds = taken.count()});
}

// ---- the end ---------------------------------------------------------------------------------------------

void http_connection::linger() {
    if (eof_) return close();
    phase_ = phase::lingering;
    deadline_ = now() + linger_timeout;
    release(pending_);
    reader_.reset();
    error_code code;
    socket_.shutdown(asio::ip::tcp::socket::shutdown_send, code);
    read();
}

void http_connection::close() noexcept {
    if (std::exchange(phase_, phase::closed) == phase::closed) return;
    const auto self = shared_from_this();
    if (const auto current = current_.lock()) current->lost = true;
    error_code code;
    socket_.close(code);
    core_.budget.give_back(std::exchange(held_, 0));
    release(head_);
    release(body_);
    try {
        report(499);
    } catch (...) {
    }
    core_.remove(self);
}

void http_connection::drain() {
    error_code code;
    // Bytes that are there already are a request, which is answered.
    if (idle() && socket_.available(code) == 0) close();
}

void http_connection::sweep(time_point time) {
    if (phase_ == phase::handling) {
        const auto current = current_.lock();
        if (current && time >= current->deadline.load() && !current->answered.exchange(true))
            guarded([&] {
                write(core_.refusal_of(path_, 504, "this took longer than a request may"), current->route);
            });
        return;
    }
    if (time < deadline_) return;
    if (phase_ == phase::reading && reader_.begun())
        guarded([&] { refuse(408, "the request came too slowly"); });
    else
        close();
}

}  // namespace server
