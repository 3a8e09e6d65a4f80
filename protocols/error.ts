// The one error class of the house. It knows nothing of where it is thrown.

/**
 * An error a person or a peer is meant to read: `code` is stable and fit for scripts, `message` says what failed, with
 * which value, and what to do next.
 */
export class MeshError extends Error {
  constructor(
    readonly code: string,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options)
    this.name = 'MeshError'
  }
}

/** The text of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
