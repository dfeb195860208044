# osModa node and controller as a NixOS module. A skeleton: it installs the same
# units that the real-host tests run (deploy/systemd), with the programs taken from
# a package.
# It has no installer and no options for the daemons' configuration yet; those are
# the files /etc/osmoda/<daemon>.toml.
{ config, lib, pkgs, ... }:

let
  cfg = config.services.osmoda;

  # The rendered units name /usr/local/bin; here the programs come from the package.
  units = pkgs.runCommand "osmoda-units" { } ''
    mkdir -p $out/lib/systemd/system
    for unit in ${../deploy/systemd}/*.service ${../deploy/systemd}/*.socket ${../deploy/systemd}/*.target; do
      substitute "$unit" "$out/lib/systemd/system/$(basename "$unit")" \
        --replace-quiet /usr/local/bin ${cfg.package}/bin
    done
  '';

  # Confined daemons, as deploy/systemd/*.sysusers.conf list them. watch and execd are root.
  users = lib.optionals cfg.enable [ "agentd" "mesh" "fleetd" ] ++ lib.optional cfg.controller.enable "controller";
  sockets = users ++ lib.optionals cfg.enable [ "watch" "execd" ];

  folders = name: pkgs.runCommand "${name}-tmpfiles" { } ''
    install -Dm644 ${../deploy/systemd}/${name}.tmpfiles.conf $out/lib/tmpfiles.d/${name}.conf
  '';
in
{
  options.services.osmoda = {
    enable = lib.mkEnableOption "the osModa node daemons";

    controller.enable = lib.mkEnableOption "the osModa controller on this machine";

    package = lib.mkOption {
      type = lib.types.package;
      description = "Package with osmoda-node, osmoda-guard, agentctl and osmoda-controller in its bin folder.";
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether to open UDP port 18800 for the mesh.";
    };
  };

  config = lib.mkIf (cfg.enable || cfg.controller.enable) {
    environment.systemPackages = [ cfg.package ];

    systemd.packages = [ units ];
    # NixOS does not read [Install] of packaged units.
    systemd.targets.osmoda = lib.mkIf cfg.enable { wantedBy = [ "multi-user.target" ]; };
    systemd.services.osmoda-controller = lib.mkIf cfg.controller.enable { wantedBy = [ "multi-user.target" ]; };
    systemd.sockets = lib.genAttrs (map (name: "osmoda-${name}") sockets) (_: {
      wantedBy = [ "sockets.target" ];
    });

    users.groups = { osmoda = { }; } // lib.genAttrs (map (name: "osmoda-${name}") users) (_: { });
    users.users = lib.listToAttrs (map (name: {
      name = "osmoda-${name}";
      value = {
        isSystemUser = true;
        group = "osmoda-${name}";
        extraGroups = [ "osmoda" ];
        home = "/var/lib/osmoda/${name}";
      };
    }) users);

    systemd.tmpfiles.packages =
      lib.optional cfg.enable (folders "osmoda") ++ lib.optional cfg.controller.enable (folders "osmoda-controller");

    # watch refuses a closure that no trusted key has signed; so does the store.
    nix.settings.require-sigs = lib.mkIf cfg.enable true;

    networking.firewall.allowedUDPPorts = lib.mkIf cfg.openFirewall [ 18800 ];
  };
}
