// The vector source of attention: 16 queries are the columns of a panel, so that both products are tiles and the softmax
// runs down the keys in all lanes at once.
#pragma once

#include <bitmill/kernels/layer_functions.hpp>
#include <bitmill/kernels/layer_tile.hpp>

namespace bitmill::kernels {

template <class Arch>
struct attention_of {
    using f = functions_of<Arch>;
    using lanes = f32x16<Arch>;

    // Rows of [k][width] times P panels of queries.
    template <std::size_t P, class Store>
    static BITMILL_FLATTEN void times_queries(const float* x, std::size_t rows, std::size_t width,
                                              std::size_t depth, const float* const* w, const Store& put) {
        constexpr std::size_t most = float_tile_size<Arch>::rows;
        std::size_t row = 0;
        const auto tile = [&]<std::size_t R>() {
            lanes t[R * P];
            float_tile<Arch, R, P>(x + row, width, w, depth, t);
            repeat<R * P>([&](auto at) BITMILL_FLAT { put(row + at / P, at % P, t[at]); });
            row += R;
        };
        while (row + most <= rows) tile.template operator()<most>();
        while (row < rows) tile.template operator()<1>();
    }

    // Scores of one panel of queries, [key][16], become exponentials; returns 1 / their sum.
    static lanes softmax(float* scores, std::size_t length, float scale) {
        lanes most = load<Arch>(scores);
        for (std::size_t k = 1; k < length; ++k) most = higher(most, load<Arch>(scores + 16 * k));
        lanes sum = spread<Arch>(0);
        for (std::size_t k = 0; k < length; ++k) {
            const lanes e = f::exp((load<Arch>(scores + 16 * k) - most) * spread<Arch>(scale));
            sum = sum + e;
            store(e, scores + 16 * k);
        }
        return spread<Arch>(1) / sum;
    }

    struct head {
        const float *q, *k, *v;
        std::size_t length, width, stride;
        float scale;
        float* dst;
        std::size_t dst_stride;
        const float* keys;  // packed as rows
    };

    template <std::size_t P>
    static void attend_to(const head& h, std::size_t query, std::size_t queries, std::byte* room) {
        float* panel[P];
        float* scores[P];
        for (std::size_t i = 0; i < P; ++i) {
            panel[i] = reinterpret_cast<float*>(take(room, 64 * h.width));
            const std::size_t first = query + 16 * i;
            const std::size_t n = query + queries <= first ? 0 : query + queries - first;
            for (std::size_t j = 0; j < 16; ++j)
                for (std::size_t k = 0; k < h.width; ++k)
                    panel[i][16 * k + j] = j < n ? h.q[(first + j) * h.stride + k] : 0.0f;
        }
        for (std::size_t i = 0; i < P; ++i) scores[i] = reinterpret_cast<float*>(take(room, 64 * h.length));
        for (std::size_t key = 0; key < h.length; key += row_block) {
            const std::size_t width = h.length - key < row_block ? h.length - key : row_block;
            times_queries<P>(h.keys + key * h.width, width, width, h.width, panel,
                             [&](std::size_t row, std::size_t i, const lanes& t)
                                 BITMILL_FLAT { store(t, scores[i] + 16 * (key + row)); });
        }
        lanes inverse[P];
        for (std::size_t i = 0; i < P; ++i) inverse[i] = softmax(scores[i], h.length, h.scale);
        times_queries<P>(h.v, h.width, h.stride, h.length, scores,
                         [&](std::size_t row, std::size_t i, const lanes& t) BITMILL_FLAT {
                             alignas(64) float all[16];
                             store(t * inverse[i], all);
                             const std::size_t first = query + 16 * i;
                             for (std::size_t j = 0; j < 16 && first + j < query + queries; ++j)
                                 h.dst[(first + j) * h.dst_stride + row] = all[j];
                         });
    }

    static void attend(const float* q, const float* k, const float* v, std::size_t length, std::size_t width,
                       std::size_t stride, float scale, std::size_t row_begin, std::size_t row_end,
                       float* dst, std::size_t dst_stride, std::byte* scratch) {
        auto* keys = reinterpret_cast<float*>(take(scratch, 4 * length * width));
        for (std::size_t key = 0; key < length; key += row_block) {
            const std::size_t rows = length - key < row_block ? length - key : row_block;
            pack_rows(k + key * stride, stride, rows, width, keys + key * width);
        }
        const head h{q, k, v, length, width, stride, scale, dst, dst_stride, keys};
        constexpr std::size_t together = float_tile_size<Arch>::panels;
        for (std::size_t query = row_begin; query < row_end; query += 16 * together) {
            const std::size_t left = row_end - query;
            if (together == 2 && left > 16)
                attend_to<together>(h, query, left < 32 ? left : 32, scratch);
            else
                attend_to<1>(h, query, left < 16 ? left : 16, scratch);
        }
    }
};

}  // namespace bitmill::kernels
