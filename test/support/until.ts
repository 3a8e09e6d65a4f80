// Waiting for something to become so. It knows nothing of what is waited for.

/** What a probe says while there is nothing to see yet. */
type NotYet = undefined | null | false

/**
 * Calls `probe` every `everyMs` until it returns something truthy, and returns that. A probe that throws or rejects
 * counts as "not yet". Rejects after `deadlineMs`, naming `what` was not seen, with the probe's last error as cause; also
 * where a probe never settles.
 */
export async function until<T>(
  what: string,
  probe: () => T | NotYet | Promise<T | NotYet>,
  { deadlineMs = 10_000, everyMs = 50 }: { deadlineMs?: number; everyMs?: number } = {},
): Promise<T> {
  const deadline = performance.now() + deadlineMs
  let lastError: unknown
  let timer: NodeJS.Timeout | undefined
  const expired = new Promise<'expired'>((resolve) => {
    timer = setTimeout(resolve, deadlineMs, 'expired')
  })
  const attempt = async () => {
    try {
      const seen = await probe()
      lastError = undefined
      return { seen }
    } catch (error) {
      lastError = error
      return { seen: undefined }
    }
  }
  try {
    for (;;) {
      const result = await Promise.race([attempt(), expired])
      if (result !== 'expired' && result.seen) return result.seen
      if (result === 'expired' || performance.now() + everyMs > deadline) {
        const message =
          lastError instanceof Error ? lastError.message : lastError === undefined ? '' : String(lastError)
        throw new Error(`not seen within ${deadlineMs} ms: ${what}${message && ` (last error: ${message})`}`, {
          cause: lastError,
        })
      }
      await new Promise((resolve) => setTimeout(resolve, everyMs))
    }
  } finally {
    clearTimeout(timer)
  }
}
