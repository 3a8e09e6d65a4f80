// Where the package lies: the folder with package.json, two levels above dist/node.
export const packageRoot = new URL('../../', import.meta.url)
