import { init, defaultDevice, nn, numpy as jnp } from "@jax-js/jax";
import * as tf from "@tensorflow/tfjs-core";
import { webgpuBackend } from "@transmla/backend-webgpu";
import { add, attention, matmul, scope, softmax, tensor } from "@transmla/core";
// oxlint-disable-next-line import/no-unassigned-import -- it registers itself
import "@tensorflow/tfjs-backend-webgpu";

const random = (count) => Float32Array.from({ length: count }, () => 2 * Math.random() - 1);

/** Makes the cases; all libraries compute on the same adapter. */
export async function cases() {
  const backend = await webgpuBackend({ powerPreference: "high-performance" });
  await init("webgpu");
  defaultDevice("webgpu");
  await tf.setBackend("webgpu");
  await tf.ready();
  tf.env().set("WEBGPU_CPU_FORWARD", false); // small operations, too, on the device
  // Each ends when the result is there, and gives its first number: jax-js only where it is asked to, since it reads all.
  const ours = (body) => {
    return async () => {
      using result = scope(body);
      using row = result.slice(0, 0, 1);
      using first = row.slice(row.rank - 1, 0, 1);
      return (await first.read())[0];
    };
  };
  const jax = (body) => {
    return async (isChecked) => {
      const result = await body().blockUntilReady();
      if (isChecked) return (await result.data())[0];
      result.dispose();
    };
  };
  const tfjs = (body) => {
    return async () => {
      const first = tf.tidy(() => {
        const result = body();
        const ones = result.shape.map(() => 1);
        return tf.slice(result, Array(ones.length).fill(0), ones);
      });
      const [value] = await first.data();
      first.dispose();
      return value;
    };
  };
  /** A matrix in every library. */
  const matrix = (...shape) => {
    const data = random(shape.reduce((x, y) => x * y));
    return {
      ours: tensor(backend, data, shape),
      jax: jnp.array(data).reshape(shape),
      tfjs: tf.tensor(data, shape),
    };
  };
  const products = [256, 512, 1024].map((n) => {
    const [a, b] = [matrix(n, n), matrix(n, n)];
    return {
      name: `matmul ${n}`,
      operations: 2 * n ** 3,
      libraries: {
        transmla: ours(() => matmul(a.ours, b.ours)),
        "jax-js": jax(() => jnp.matmul(a.jax.ref, b.jax.ref)),
        // Too slow on a software adapter to wait for at 1024.
        ...(n < 1024 && {
          tfjs: tfjs(() => tf.matMul(a.tfjs, b.tfjs)),
        }),
      },
    };
  });
  const rows = matrix(1024, 1024);
  const [x, w] = [matrix(1, 2048), matrix(2048, 2048)];
  const [T, H, D] = [128, 8, 64];
  const [q, k, v] = [matrix(T, H, D), matrix(T, H, D), matrix(T, H, D)];
  const small = matrix(1, 4);
  const CHAIN = 100;
  const chain = (start, next) => {
    let value = start();
    for (let i = 0; i < CHAIN; i++) value = next(value);
    return value;
  };
  return [
    ...products,
    {
      name: "softmax 1024 x 1024",
      libraries: {
        transmla: ours(() => softmax(rows.ours)),
        "jax-js": jax(() => nn.softmax(rows.jax.ref)),
        tfjs: tfjs(() => tf.softmax(rows.tfjs)),
      },
    },
    {
      name: "gemv 2048 x 2048, weights [out, in]",
      operations: 2 * 2048 ** 2,
      libraries: {
        transmla: ours(() => matmul(x.ours, w.ours.transpose())),
        "jax-js": jax(() => jnp.matmul(x.jax.ref, jnp.matrixTranspose(w.jax.ref))),
        tfjs: tfjs(() => tf.matMul(x.tfjs, w.tfjs, false, true)),
      },
    },
    {
      name: `causal attention, ${T} tokens, ${H} heads of ${D}`,
      operations: 4 * T * T * H * D,
      libraries: {
        transmla: ours(() => attention(q.ours, k.ours, v.ours, { scale: 1 / 8, causal: true })),
        "jax-js": jax(() => {
          const options = { isCausal: true };
          return nn.dotProductAttention(q.jax.ref, k.jax.ref, v.jax.ref, options);
        }),
      },
    },
    {
      name: `${CHAIN} additions of 4 numbers in a chain, and a read`,
      libraries: {
        transmla: ours(() =>
          chain(
            () => small.ours,
            (value) => add(value, small.ours),
          ),
        ),
        "jax-js": jax(() =>
          chain(
            () => small.jax.ref,
            (value) => jnp.add(value, small.jax.ref),
          ),
        ),
        tfjs: tfjs(() =>
          chain(
            () => small.tfjs,
            (value) => tf.add(value, small.tfjs),
          ),
        ),
      },
    },
    {
      name: "an addition of 4 numbers, and a read",
      libraries: {
        transmla: ours(() => add(small.ours, small.ours)),
        "jax-js": jax(() => jnp.add(small.jax.ref, small.jax.ref)),
        tfjs: tfjs(() => tf.add(small.tfjs, small.tfjs)),
      },
    },
  ];
}
