// Format bitmill: which levels a folder has, and the residual planes beside its weight files.
#pragma once

#include <bitmill/detail/list_folder-inl.hpp>
#include <bitmill/detail/stored_collector-inl.hpp>

namespace bitmill::detail {

class native_levels {
public:
    using location = checkpoint::location;

    native_levels(stored_collector& found, std::optional<scheme_type> level) : found_(found), level_(level) {}

    // What the folder says that it holds, and the residual planes that are there, unless a lower level is wanted.
    result<void> open(const json& config) {
        const std::string path = found_.model.root() + "/config.json";
        if (const auto version = config.find("version"); version == config.end() || *version != 1)
            return error{.code = error_code::unsupported,
                         .message = "is of another version of format bitmill than 1; use a later bitmill",
                         .file = path};
        const auto levels = config.find("levels");
        const bool is_list = levels != config.end() && levels->is_array();
        if (level_ && (!is_list || std::none_of(levels->begin(), levels->end(), [&](const json& one) {
                return is_text(one, facts(*level_).name);
            })))
            return error{.code = error_code::invalid_argument,
                         .message = std::string("this folder has no level ") + facts(*level_).name +
                                    "; its levels: " + (is_list ? shown(*levels) : "not said"),
                         .file = path};
        found_.out.residuals.resize(found_.model.shard_count());
        const bool two_levels = is_list && levels->size() > 1;
        if (const auto planes = config.find("residual_planes");
            planes != config.end() && planes->is_number_unsigned())
            expected_ = planes->get<std::size_t>();
        if (!two_levels || level_ == scheme_type::int4) return {};
        for (std::size_t shard = 0; shard < found_.model.shard_count(); ++shard) {
            const std::string name = residual_name(found_.model.shard_name(shard));
            const auto there = is_there(found_.model.root() + "/" + name);
            if (!there) return there.error();
            if (!*there) {
                if (missing_.empty()) missing_ = found_.model.root() + "/" + name;
                continue;
            }
            auto file = input_file::open_beneath(found_.model.root(), name);
            if (!file) return file.error();
            auto planes = weight_file::open(std::move(*file));
            if (!planes) return planes.error();
            if (auto together = check_pair(found_.model.shard(shard), *planes); !together) return together;
            found_.out.residuals[shard].emplace(std::move(*planes));
        }
        const bool any = std::any_of(found_.out.residuals.begin(), found_.out.residuals.end(),
                                     [](const auto& one) { return one.has_value(); });
        if (level_ == scheme_type::int8 && !any)
            return error{
                .code = error_code::bad_input,
                .message = "the residual plane of level int8 is not there; copy it back, or take int4",
                .file = found_.model.root() + "/" + residual_name(found_.model.shard_name(0))};
        return {};
    }

    // The residual plane of a base of 4 bits makes 8 of it.
    result<void> add_plane(stored_tensor& stored, const std::string& weight) {
        const std::size_t shard = stored.codes.shard;
        if (found_.out.residuals.empty() || !found_.out.residuals[shard]) return {};
        const auto& file = *found_.out.residuals[shard];
        const auto found = file.find(weight + "_residual");
        if (!found) return {};
        const tensor_info plane = file[*found];
        const std::uint64_t bytes = found_.info(stored.codes).bytes;
        const bool fits = plane.type == dtype::u8 && plane.bytes == bytes && plane.shape.size() == 2 &&
                          plane.shape[0] == stored.shape[0];
        if (!fits || !stored.scheme->symmetric || stored.scheme->type != scheme_type::int4 ||
            stored.scheme->granularity == granularity::per_tensor || stored.scheme->scale_dtype == dtype::f32)
            return error{.code = error_code::bad_input,
                         .message = "is not the residual plane of " + to_text(*stored.scheme) + " codes of " +
                                    std::to_string(bytes) + " bytes",
                         .file = file.file().path(),
                         .tensor = weight + "_residual",
                         .offset = plane.offset};
        stored.scheme->type = scheme_type::int8;
        stored.scheme->planes = true;
        stored.scheme->offset_binary = false;
        stored.residual = {shard, *found};
        stored.bytes += plane.bytes;
        ++used_;
        return {};
    }

    // All planes or none: a plane that is left over belongs to other weights, and with one that is missing some
    // weights would be of another level than the rest.
    [[nodiscard]] result<void> check() const {
        std::size_t there = 0;
        for (const auto& file : found_.out.residuals) there += file ? file->size() : 0;
        if (there == used_ && (there == 0 || there == expected_)) return {};
        if (there == used_)
            return error{
                .code = error_code::bad_input,
                .message = std::to_string(there) + " of " + std::to_string(expected_) +
                           " residual planes are there: copy the others back, or delete all residual "
                           "files, which leaves level int4",
                .file = missing_.empty() ? found_.model.root() : missing_};
        return error{.code = error_code::bad_input,
                     .message = "holds " + std::to_string(there) + " residual planes, of which " +
                                std::to_string(used_) +
                                " belong to weights of the folder: it is of another model",
                     .file = found_.model.root()};
    }

private:
    // Files that were milled together say the same of the tensors of both; old ones say nothing.
    static result<void> check_pair(const weight_file& base, const weight_file& planes) {
        if (base.metadata(planes_key) == planes.metadata(planes_key)) return {};
        return error{.code = error_code::bad_input,
                     .message = "was not milled together with " + base.file().path() +
                                ": it is of another model. Copy the right one back, or delete it, which "
                                "leaves level int4",
                     .file = planes.file().path()};
    }

    stored_collector& found_;
    std::optional<scheme_type> level_;
    std::size_t used_ = 0;
    std::size_t expected_ = 0;  // as config.json says
    std::string missing_;       // the first residual file that is not there
};

}  // namespace bitmill::detail
