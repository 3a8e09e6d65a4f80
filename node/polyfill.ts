// libp2p 3 calls Promise.withResolvers, which Node 20 lacks. Import this before anything that imports libp2p.
interface WithResolvers {
  withResolvers?: () => {
    promise: Promise<unknown>
    resolve: (value: unknown) => void
    reject: (reason: unknown) => void
  }
}

;(Promise as WithResolvers).withResolvers ??= () => {
  let resolve!: (value: unknown) => void
  let reject!: (reason: unknown) => void
  const promise = new Promise<unknown>((onResolve, onReject) => {
    resolve = onResolve
    reject = onReject
  })
  return { promise, resolve, reject }
}
